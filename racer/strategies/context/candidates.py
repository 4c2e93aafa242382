"""The children that a node may get, and what every voice says of each."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from racer.kernels.jit import Number, compiled
from racer.strategies.context.odds import SIZE, Floats, Odds
from racer.strategies.context.table import Ids, Probs
from racer.strategies.context.voices import SILENT, VOICES, prob_bin

MOST = 192
"""Candidates of a node; all voices together name fewer."""
BUCKETS = 512
LIFT = np.float32(4)
"""No candidate that voices give probabilities is estimated at more than this times the best of them: so what cannot
become a node need not be looked at."""


class Candidates(NamedTuple):
    """Of one node; used again for the next."""

    tokens: NDArray[np.int32]
    """``[MOST]``"""
    most: Probs
    """``[MOST]`` no candidate is thought likelier: so much for the faith that any voice has in it."""
    cells: NDArray[np.int16]
    """``[MOST, VOICES]`` what each voice says (:mod:`racer.strategies.context.voices`)."""
    totals: Floats
    """``[SIZE, MOST]`` sum of the vectors of its cells (:mod:`racer.strategies.context.odds`)."""
    unnamed: NDArray[np.int16]
    """``[VOICES]`` what each voice says of all that it does not name."""
    base: Floats
    """``[SIZE]`` sum of the vectors of these."""
    used: NDArray[np.int64]
    """``[1]``"""
    bucket: NDArray[np.int16]
    """``[BUCKETS]`` candidates by the low bits of their tokens, in the next free bucket; -1 where empty."""

    @classmethod
    def empty(cls) -> Candidates:
        """:func:`clear` it before use."""
        return cls(
            np.empty(MOST, np.int32),
            np.empty(MOST, np.float32),
            np.empty((MOST, VOICES), np.int16),
            np.zeros((SIZE, MOST), np.float32),
            np.empty(VOICES, np.int16),
            np.empty(SIZE, np.float32),
            np.zeros(1, np.int64),
            np.empty(BUCKETS, np.int16),
        )


@compiled
def clear(candidates: Candidates) -> None:
    """Forget all; no voice has spoken."""
    candidates.used[0] = 0
    for voice in range(VOICES):
        candidates.unnamed[voice] = SILENT[voice]
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
def add(candidates: Candidates, token: int, most: Number) -> None:
    """Make ``token`` a candidate if it is none, and let it be as likely as ``most``.

    All voices that speak have said what they say of the unnamed, and ``base`` is its sum.
    """
    bucket = token & (BUCKETS - 1)
    while candidates.bucket[bucket] >= 0:
        known = candidates.bucket[bucket]
        if candidates.tokens[known] == token:
            candidates.most[known] = max(candidates.most[known], np.float32(most))
            return
        bucket = (bucket + 1) & (BUCKETS - 1)
    at = candidates.used[0]
    if at == MOST:
        return
    candidates.bucket[bucket] = at
    candidates.tokens[at] = token
    candidates.most[at] = most
    for i in range(SIZE):
        candidates.totals[i, at] = candidates.base[i]
    for voice in range(VOICES):
        candidates.cells[at, voice] = candidates.unnamed[voice]
    candidates.used[0] = at + 1


@compiled
def tell(candidates: Candidates, odds: Odds, at: int, voice: int, cell: Number) -> None:
    """Note what a voice says of a candidate. Some voices speak twice; the first word counts."""
    unnamed = candidates.unnamed[voice]
    if candidates.cells[at, voice] == unnamed:
        candidates.cells[at, voice] = cell
        for i in range(SIZE):
            candidates.totals[i, at] += odds.vectors[cell, i] - odds.vectors[unnamed, i]


@compiled
def nominate(candidates: Candidates, ids: Ids, probs: Probs, least: Number, vocab_size: int) -> None:
    """Make those of a voice's tokens (best first) candidates that may be as likely as ``least``."""
    for j in range(len(ids)):
        most = LIFT * probs[j]
        if most < least:
            break
        if ids[j] < vocab_size:  # a head may have more rows than the embedding
            add(candidates, ids[j], most)


@compiled
def describe(candidates: Candidates, odds: Odds, voice: int, cell: int, ids: Ids, probs: Probs) -> None:
    """Note what a voice says of the candidates that it names, in the cells from ``cell`` on."""
    for j in range(len(ids)):
        at = find(candidates, ids[j])
        if at >= 0:
            tell(candidates, odds, at, voice, cell + prob_bin(probs[j]))
