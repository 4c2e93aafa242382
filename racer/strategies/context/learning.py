"""Learning from a scored tree: which guesses were right, and what the model thought at every node."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from racer.kernels.jit import Number, compiled
from racer.strategies.context.blends import stir_in
from racer.strategies.context.cues import LONGEST, remember
from racer.strategies.context.growth import Growth
from racer.strategies.context.hashing import NO_TOKEN, lengthen
from racer.strategies.context.hints import RECENT, note_recent, note_rejected, note_success
from racer.strategies.context.memory import Memory, Row, expect, last_context, read
from racer.strategies.context.odds import SIZE, Floats, Odds, count
from racer.strategies.context.table import Ids, Probs

Nodes = NDArray[np.int64]


class Scored(NamedTuple):
    """The trees of a batch after their forward pass."""

    tokens: Nodes
    """``[B, N]``"""
    parent: Nodes
    """``[B, N]`` parents stand before their children."""
    path: Nodes
    """``[B, N]`` accepted nodes, the root first."""
    next_token: Nodes
    """``[B]`` what came after them."""
    ids: Nodes
    """``[B, N, any]`` the best next tokens of every node; those of a node that starts with -1 are unknown."""
    probs: Probs
    """``[B, N, any]`` their probabilities."""


class Lesson(NamedTuple):
    """Where a scored tree is learned from; used again for the next."""

    contexts: NDArray[np.int32]
    """``[N, LONGEST]`` the tokens up to each node, the latest first."""
    depth: NDArray[np.int32]
    """``[N]``"""
    accepted: NDArray[np.bool_]
    """``[N]``"""
    score: Probs
    """``[N]`` 1 where nobody knows what the drafter thought."""
    ids: Ids
    """``[N, k]`` of the best next tokens."""
    total: Floats
    """``[SIZE]`` of vectors."""

    @classmethod
    def of(cls, size: int, k: int) -> Lesson:
        """For trees of up to ``size`` nodes."""
        return cls(
            np.empty((size, LONGEST), np.int32),
            np.empty(size, np.int32),
            np.empty(size, np.bool_),
            np.empty(size, np.float32),
            np.empty((size, k), np.int32),
            np.empty(SIZE, np.float32),
        )


@compiled
def learn(
    memory: Memory,
    row: Row,
    new: NDArray[np.int32],
    growth: Growth,
    drafted: int,
    scored: Scored,
    at: int,
    nodes: int,
    length: int,
    lesson: Lesson,
) -> bool:
    """Count right and wrong guesses, and remember what the model thought at every node of a scored tree.

    :param new: what the row's text has not got yet; the text ends with the root.
    :param growth: the tree as it was drafted, ``drafted`` nodes (0: there is none). If a plugin has changed it, nothing
        is counted.
    :param at: the row of the batch, of whose tree ``nodes`` were scored and ``length`` accepted.
    :param lesson: of ``nodes`` nodes or more; overwritten.
    :return: whether the path is one of this tree; else nothing is learned.
    """
    read(row, new)
    if not _holds(scored, at, nodes, length):
        return False
    tokens, parent, path = scored.tokens[at, :nodes], scored.parent[at, :nodes], scored.path[at, :length]
    known, sound = _is_head(growth, drafted, tokens, parent), True
    for node in path:
        sound = sound and 0 <= node < nodes
    if not sound:
        return False
    for node in range(nodes):
        lesson.accepted[node] = False
        lesson.score[node] = growth.score[node] if known else np.float32(1)
    for node in path:
        lesson.accepted[node] = True
    if known:
        note_success(row.hints, length - 1)
        last: Number = path[length - 1]
        calibrate(memory.odds, growth, drafted, lesson.accepted[:nodes], last, scored.next_token[at], lesson.total)
    _remember_all(memory, row, tokens, parent, length, scored.ids[at, :nodes], scored.probs[at, :nodes], lesson)
    return True


@compiled
def _holds(scored: Scored, at: int, nodes: int, length: int) -> bool:
    """Whether there is a row ``at`` of so many nodes and accepted ones in all arrays."""
    batch = min(len(scored.tokens), len(scored.parent), len(scored.path), len(scored.next_token))
    wide = min(scored.tokens.shape[1], scored.parent.shape[1], scored.ids.shape[1], scored.probs.shape[1])
    named = scored.ids.shape[2] <= scored.probs.shape[2]
    inside = 0 <= at < min(batch, len(scored.ids), len(scored.probs))
    return inside and named and 0 < nodes <= wide and 0 < length <= scored.path.shape[1]


@compiled
def _is_head(growth: Growth, drafted: int, tokens: Nodes, parent: Nodes) -> bool:
    """Whether the scored tree is the beginning of the drafted one; a plugin may have changed it."""
    if len(tokens) > drafted or tokens[0] != growth.tokens[0]:
        return False
    same = True
    for node in range(1, len(tokens)):
        same = same and growth.tokens[node] == tokens[node] and growth.parent[node] == parent[node]
    return same


@compiled
def calibrate(
    odds: Odds,
    growth: Growth,
    drafted: int,
    accepted: NDArray[np.bool_],
    last: int,
    next_token: int,
    total: Floats,
) -> None:
    """Count right and wrong guesses among the children of accepted nodes; of the others nothing is known.

    Nodes that a budget cut off count too: what followed their parents is known all the same. Else only the candidates
    that were thought best would ever be counted, and all others overrated.

    :param growth: the tree as it was grown, ``drafted`` nodes, of which the first ones were scored.
    :param accepted: ``[scored]``
    :param last: the last accepted node, after which ``next_token`` came.
    :param total: ``[SIZE]`` is overwritten.
    """
    scored = len(accepted)
    for node in range(1, drafted):
        parent = growth.parent[node]
        if parent < scored and accepted[parent]:
            right = accepted[node] if node < scored else parent == last and growth.tokens[node] == next_token
            count(odds, growth.notes[node], right, total)


@compiled
def _remember_all(
    memory: Memory,
    row: Row,
    tokens: Nodes,
    parent: Nodes,
    length: int,
    top_ids: NDArray[np.int64],
    top_probs: Probs,
    lesson: Lesson,
) -> None:
    """Remember what the model thought at every node, rejected ones too, accepted ones (``length`` of them) last."""
    contexts, depth, accepted, nodes, hints = lesson.contexts, lesson.depth, lesson.accepted, len(tokens), row.hints
    named = min(lesson.ids.shape[1], top_ids.shape[1])  # a small vocabulary has fewer, other drafters may want more
    ids, probs = lesson.ids[:, :named], top_probs[:, :named]
    last_context(row, contexts[0])
    depth[0] = 0
    for node in range(nodes):
        for j in range(named):
            ids[node, j] = top_ids[node, j]
    for node in range(1, nodes):
        lengthen(contexts[node], contexts[parent[node]], tokens[node])
        depth[node] = depth[parent[node]] + 1
    for node in range(nodes):
        expect(memory, contexts[node])
    for turn in range(2):
        for node in range(nodes):
            if accepted[node] == (turn == 1) and ids[node, 0] != NO_TOKEN:
                remember(memory.cues, contexts[node], ids[node], probs[node], accepted[node], hints.asker[0])
                stir_in(memory.blends, contexts[node], ids[node], probs[node], accepted[node])
    for node in range(nodes):
        if accepted[node] and depth[node] >= length - RECENT and ids[node, 0] != NO_TOKEN:
            note_recent(hints, ids[node], probs[node])
    note_rejected(hints, depth[:nodes], lesson.score, length, ids, probs)
