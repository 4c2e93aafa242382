"""Extracting the features of all children that one node may get."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from racer.kernels.jit import Number, compiled
from racer.strategies.context import running_means, top_k_table
from racer.strategies.context.candidates import Candidates, add, add_listed, clear, find, set_cell, set_listed_cells
from racer.strategies.context.estimator import Estimator, sum_vectors
from racer.strategies.context.features import (
    AHEAD_BINS,
    ALIGNED,
    FAR,
    FEATURES,
    FIRST_CELL,
    LAST_SEEN,
    LENGTH_BINS,
    LISTING_CELLS,
    MATCH,
    MAX_VOTES,
    MEAN,
    MISSING,
    NEAR,
    PROB_BINS,
    TOP_K,
    VOTES,
    last_seen_cell,
    length_bin,
    set_circumstances,
    unlisted_bin,
)
from racer.strategies.context.hash_table import IDS, Ids, Probs, probs_column
from racer.strategies.context.hashing import NO_TOKEN, Context
from racer.strategies.context.history import next_token
from racer.strategies.context.matches import MAX_MATCHES, Matches
from racer.strategies.context.memory import Memory, Row
from racer.strategies.context.recent import ALIGNED_DEPTHS, POSITIONS, Recent
from racer.strategies.context.running_means import MEANS
from racer.strategies.context.top_k_table import MAX_CONTEXT

MIN_PROB = np.float32(0.002)
"""A feature lists no token to which it gives less than this."""
FAR_IDS = 6
"""Tokens taken from each of the older recent predictions."""
MAX_PREDICTIONS = MAX_CONTEXT + MEANS + POSITIONS + 1
MATCH_CELLS = LENGTH_BINS + 1
"""Cells of one length of the longest match: a cell for each length of the candidate's own, and one if it is that."""


class NodeFeatures(NamedTuple):
    """Features of the children of one node; used again for the next.

    A prediction is a list of likely tokens, from a table or from a recent step; each belongs to a feature.
    """

    candidates: Candidates
    feature: NDArray[np.int64]
    """``[MAX_PREDICTIONS]`` the feature that a prediction belongs to, ..."""
    cell: NDArray[np.int64]
    """``[MAX_PREDICTIONS]`` ... and the cell of the lowest probability."""
    listed: NDArray[np.int64]
    """``[MAX_PREDICTIONS]`` how many tokens it lists."""
    ids: Ids
    """``[MAX_PREDICTIONS, k]`` best first."""
    probs: Probs
    """``[MAX_PREDICTIONS, k]``"""
    predictions: NDArray[np.int64]
    """``[1]`` how many there are."""
    slots: NDArray[np.int64]
    """``[MAX_CONTEXT + MEANS]`` where the tables know the node's context; -1 where they do not."""
    following: NDArray[np.int32]
    """``[MAX_MATCHES]`` how each match goes on."""

    @classmethod
    def of(cls, k: int) -> NodeFeatures:
        """None yet; predictions list up to ``k`` tokens."""
        return cls(
            Candidates.empty(),
            np.empty(MAX_PREDICTIONS, np.int64),
            np.empty(MAX_PREDICTIONS, np.int64),
            np.empty(MAX_PREDICTIONS, np.int64),
            np.empty((MAX_PREDICTIONS, k), np.int32),
            np.empty((MAX_PREDICTIONS, k), np.float32),
            np.zeros(1, np.int64),
            np.empty(MAX_CONTEXT + MEANS, np.int64),
            np.empty(MAX_MATCHES, np.int32),
        )


@compiled
def extract(
    features: NodeFeatures,
    memory: Memory,
    row: Row,
    matches: Matches,
    node: int,
    context: Context,
    depth: int,
    prob: Number,
    vocab_size: int,
    least: Number,
) -> None:
    """Fill in the children that ``node`` may get, with the cells of all features.

    First all features add candidates, then all set cells: one that would not have added a candidate may still list it.

    :param context: the tokens up to the node, the latest first.
    :param depth: of the node.
    :param prob: estimated, of the node itself.
    :param least: candidates less likely than this are not wanted.
    """
    candidates = features.candidates
    clear(candidates)
    features.predictions[0] = 0
    set_circumstances(candidates.unlisted, depth, prob)
    _read_tables(features, memory, context, row.recent.request[0])
    longest_match = _read_matches(features, matches, node, memory, row)
    _read_recent(features, memory, row.recent, depth)
    for feature in range(FEATURES):
        if not memory.enabled[feature]:
            candidates.unlisted[feature] = MISSING[feature]
    sum_vectors(memory.estimator, candidates.unlisted, candidates.base)
    for i in range(features.predictions[0]):
        listed = features.listed[i]
        add_listed(candidates, features.ids[i, :listed], features.probs[i, :listed], np.float32(least), vocab_size)
    for i in range(matches.found[node]):
        if 0 <= features.following[i] < vocab_size:
            add(candidates, features.following[i], 1)
    for i in range(features.predictions[0]):
        listed = features.listed[i]
        set_listed_cells(
            candidates,
            memory.estimator,
            features.feature[i],
            features.cell[i],
            features.ids[i, :listed],
            features.probs[i, :listed],
        )
    _set_match_cells(features, memory, matches, node, longest_match)
    if memory.enabled[LAST_SEEN]:
        _set_last_seen_cells(candidates, memory.estimator, context)


@compiled
def _add_prediction(features: NodeFeatures, feature: int, cell: int, ids: Ids, probs: Probs) -> Number:
    """Note one prediction: it is copied, so that all can be treated alike. The probability of all that it lists."""
    at, listed, mass = features.predictions[0], 0, np.float32(0)
    most = min(len(ids), features.ids.shape[1])
    features.feature[at], features.cell[at] = feature, cell
    while listed < most and ids[listed] != NO_TOKEN and probs[listed] > MIN_PROB:
        features.ids[at, listed] = ids[listed]
        features.probs[at, listed] = probs[listed]
        mass += probs[listed]
        listed += 1
    features.listed[at] = listed
    features.predictions[0] = at + 1
    return mass


@compiled
def _read_tables(features: NodeFeatures, memory: Memory, context: Context, request: int) -> None:
    """Predictions from the top-k table and the running means."""
    table, means, slots = memory.top_k, memory.means, features.slots
    unlisted, split = features.candidates.unlisted, probs_column(table.words)
    top_k_table.find(table, context, slots[TOP_K : TOP_K + MAX_CONTEXT])  # all, so that memory is waited for once
    for kind in range(MEANS):
        slots[MEAN + kind] = running_means.find(means, context, kind)
    for feature in range(TOP_K, TOP_K + MAX_CONTEXT):
        slot = slots[feature]
        if slot >= 0 and memory.enabled[feature]:
            cell = FIRST_CELL[feature] + top_k_table.confidence(table, slot, request) * LISTING_CELLS
            mass = _add_prediction(features, feature, cell, table.words[slot, IDS:split], table.reals[slot, split:])
            unlisted[feature] = cell + unlisted_bin(mass)
    for feature in range(MEAN, MEAN + MEANS):
        slot, cell = slots[feature], FIRST_CELL[feature]
        if slot >= 0 and memory.enabled[feature]:
            mass = _add_prediction(features, feature, cell, means.words[slot, IDS:split], means.reals[slot, split:])
            unlisted[feature] = cell + unlisted_bin(mass)


@compiled
def _read_recent(features: NodeFeatures, memory: Memory, recent: Recent, depth: int) -> None:
    """What the latest positions and the rejected nodes predict of the children of a node at ``depth``."""
    unlisted = features.candidates.unlisted
    known = recent.known[0]
    if known > 0:
        unlisted[NEAR], unlisted[FAR] = FIRST_CELL[NEAR], FIRST_CELL[FAR]
    for position in range(min(known, AHEAD_BINS - depth)):
        feature = NEAR if position == 0 else FAR
        cell = FIRST_CELL[feature] + 1 + (depth + position) * PROB_BINS
        size = len(recent.ids[0]) if position == 0 else FAR_IDS
        if memory.enabled[feature]:
            _add_prediction(features, feature, cell, recent.ids[position, :size], recent.probs[position, :size])
    if depth < ALIGNED_DEPTHS and recent.aligned_ids[depth, 0] != NO_TOKEN and memory.enabled[ALIGNED]:
        cell = FIRST_CELL[ALIGNED] + depth * LISTING_CELLS
        mass = _add_prediction(features, ALIGNED, cell, recent.aligned_ids[depth], recent.aligned_probs[depth])
        unlisted[ALIGNED] = cell + unlisted_bin(mass)


@compiled
def _read_matches(features: NodeFeatures, matches: Matches, node: int, memory: Memory, row: Row) -> Number:
    """Look up how the node's matches go on; the length of the longest one that does."""
    longest, count = 0, matches.found[node]
    for i in range(count):
        history = row.text if matches.own[node, i] else memory.past
        features.following[i] = next_token(history, matches.end[node, i])
        if features.following[i] != NO_TOKEN:
            longest = max(longest, matches.length[node, i])
    if longest > 0:
        features.candidates.unlisted[MATCH] = FIRST_CELL[MATCH] + length_bin(longest) * MATCH_CELLS
        features.candidates.unlisted[VOTES] = FIRST_CELL[VOTES] + count * (MAX_VOTES + 1)
    return longest


@compiled
def _set_match_cells(features: NodeFeatures, memory: Memory, matches: Matches, node: int, longest: int) -> None:
    """Put each match's candidate into the cells of its longest match and of its votes."""
    candidates, estimator, count = features.candidates, memory.estimator, matches.found[node]
    for i in range(count):
        at = find(candidates, features.following[i])
        if at < 0:
            continue
        votes, own, length = 0, False, 0
        for j in range(count):
            if features.following[j] == features.following[i]:
                votes += 1
                own = own or matches.own[node, j]
                length = max(length, matches.length[node, j])
        of_all = LENGTH_BINS if length == longest else length_bin(length)
        match_cell = FIRST_CELL[MATCH] + length_bin(longest) * MATCH_CELLS + of_all
        votes_cell = FIRST_CELL[VOTES] + (own * (MAX_VOTES + 1) + count) * (MAX_VOTES + 1) + votes
        set_cell(candidates, estimator, at, MATCH, match_cell)
        if memory.enabled[VOTES]:
            set_cell(candidates, estimator, at, VOTES, votes_cell)


@compiled
def _set_last_seen_cells(candidates: Candidates, estimator: Estimator, context: Context) -> None:
    """Put the candidates that occur in the context into their cells of :data:`LAST_SEEN`."""
    for i in range(len(context)):
        at = find(candidates, context[i])
        if at >= 0:
            set_cell(candidates, estimator, at, LAST_SEEN, last_seen_cell(i + 1))
