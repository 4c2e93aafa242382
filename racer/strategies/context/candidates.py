"""The children that a node may get, and the cells of their features."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from racer.kernels.jit import Number, compiled
from racer.strategies.context.estimator import VECTOR_SIZE, Estimator, Floats
from racer.strategies.context.features import FEATURES, MISSING, prob_bin
from racer.strategies.context.hash_table import Ids, Probs

MAX_CANDIDATES = 192
"""Candidates of a node; all features together list fewer."""
BUCKETS = 512
MAX_LIFT = np.float32(4)
"""No candidate that features give probabilities is estimated at more than this times the best of them: so what cannot
become a node need not be looked at."""


class Candidates(NamedTuple):
    """Of one node; used again for the next."""

    tokens: NDArray[np.int32]
    """``[MAX_CANDIDATES]``"""
    bound: Probs
    """``[MAX_CANDIDATES]`` no candidate is estimated above it, whatever the features say."""
    cells: NDArray[np.int16]
    """``[MAX_CANDIDATES, FEATURES]`` (:mod:`racer.strategies.context.features`)."""
    totals: Floats
    """``[VECTOR_SIZE, MAX_CANDIDATES]`` sum of the vectors of its cells (:mod:`racer.strategies.context.estimator`)."""
    unlisted: NDArray[np.int16]
    """``[FEATURES]`` the cell of all that a feature does not list."""
    base: Floats
    """``[VECTOR_SIZE]`` sum of the vectors of these."""
    used: NDArray[np.int64]
    """``[1]``"""
    bucket: NDArray[np.int16]
    """``[BUCKETS]`` candidates by the low bits of their tokens, in the next free bucket; -1 where empty."""

    @classmethod
    def empty(cls) -> Candidates:
        """:func:`clear` it before use."""
        return cls(
            np.empty(MAX_CANDIDATES, np.int32),
            np.empty(MAX_CANDIDATES, np.float32),
            np.empty((MAX_CANDIDATES, FEATURES), np.int16),
            np.zeros((VECTOR_SIZE, MAX_CANDIDATES), np.float32),
            np.empty(FEATURES, np.int16),
            np.empty(VECTOR_SIZE, np.float32),
            np.zeros(1, np.int64),
            np.empty(BUCKETS, np.int16),
        )


@compiled
def clear(candidates: Candidates) -> None:
    """Forget all; every feature is missing."""
    candidates.used[0] = 0
    for feature in range(FEATURES):
        candidates.unlisted[feature] = MISSING[feature]
    candidates.bucket[:] = -1


@compiled
def find(candidates: Candidates, token: int) -> Number:
    """The candidate that holds ``token``; -1 if there is none."""
    bucket = token & (BUCKETS - 1)
    while candidates.bucket[bucket] >= 0:
        if candidates.tokens[candidates.bucket[bucket]] == token:
            return candidates.bucket[bucket]
        bucket = (bucket + 1) & (BUCKETS - 1)
    return -1


@compiled
def add(candidates: Candidates, token: int, bound: Number) -> None:
    """Make ``token`` a candidate if it is none, and let it be estimated at up to ``bound``.

    The unlisted cells of all features are known, and ``base`` is the sum of their vectors.
    """
    bucket = token & (BUCKETS - 1)
    while candidates.bucket[bucket] >= 0:
        known = candidates.bucket[bucket]
        if candidates.tokens[known] == token:
            candidates.bound[known] = max(candidates.bound[known], np.float32(bound))
            return
        bucket = (bucket + 1) & (BUCKETS - 1)
    at = candidates.used[0]
    if at == MAX_CANDIDATES:
        return
    candidates.bucket[bucket] = at
    candidates.tokens[at] = token
    candidates.bound[at] = bound
    for i in range(VECTOR_SIZE):
        candidates.totals[i, at] = candidates.base[i]
    for feature in range(FEATURES):
        candidates.cells[at, feature] = candidates.unlisted[feature]
    candidates.used[0] = at + 1


@compiled
def set_cell(candidates: Candidates, estimator: Estimator, at: int, feature: int, cell: Number) -> None:
    """Put a candidate into a feature's cell. Some features list a token twice; the first time counts."""
    unlisted = candidates.unlisted[feature]
    if candidates.cells[at, feature] == unlisted:
        candidates.cells[at, feature] = cell
        for i in range(VECTOR_SIZE):
            candidates.totals[i, at] += estimator.vectors[cell, i] - estimator.vectors[unlisted, i]


@compiled
def add_listed(candidates: Candidates, ids: Ids, probs: Probs, least: Number, vocab_size: int) -> None:
    """Make those of a feature's tokens (best first) candidates that may be as likely as ``least``."""
    for j in range(len(ids)):
        bound = MAX_LIFT * probs[j]
        if bound < least:
            break
        if ids[j] < vocab_size:  # a head may have more rows than the embedding
            add(candidates, ids[j], bound)


@compiled
def set_listed_cells(
    candidates: Candidates, estimator: Estimator, feature: int, cell: int, ids: Ids, probs: Probs
) -> None:
    """Put the candidates that a feature lists into the cells of their probabilities, which begin at ``cell``."""
    for j in range(len(ids)):
        at = find(candidates, ids[j])
        if at >= 0:
            set_cell(candidates, estimator, at, feature, cell + prob_bin(probs[j]))
