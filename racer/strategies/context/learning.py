"""Learning from a scored tree: which candidates were right, and what the model predicted at every node."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from racer.kernels.jit import Number, compiled
from racer.strategies.context import running_means, top_k_table
from racer.strategies.context.estimator import VECTOR_SIZE, Estimator, Floats, learn_outcome
from racer.strategies.context.growth import GrownTree
from racer.strategies.context.hash_table import Ids, Probs
from racer.strategies.context.hashing import NO_TOKEN, lengthen
from racer.strategies.context.memory import Memory, Row, append_text, last_context, prefetch_tables
from racer.strategies.context.recent import POSITIONS, add_position, align_rejected
from racer.strategies.context.top_k_table import MAX_CONTEXT

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


class LearnScratch(NamedTuple):
    """What learning from a scored tree works in; used again for the next."""

    contexts: NDArray[np.int32]
    """``[N, MAX_CONTEXT]`` the tokens up to each node, the latest first."""
    depth: NDArray[np.int32]
    """``[N]``; before it is known, where accepted nodes stand in the drafted tree."""
    accepted: NDArray[np.bool_]
    """``[N]``"""
    score: Probs
    """``[N]`` as it was drafted; 1 where that is unknown."""
    ids: Ids
    """``[N, k]`` of the best next tokens."""
    total: Floats
    """``[VECTOR_SIZE]`` of vectors."""

    @classmethod
    def of(cls, size: int, k: int) -> LearnScratch:
        """For trees of up to ``size`` nodes."""
        return cls(
            np.empty((size, MAX_CONTEXT), np.int32),
            np.empty(size, np.int32),
            np.empty(size, np.bool_),
            np.empty(size, np.float32),
            np.empty((size, k), np.int32),
            np.empty(VECTOR_SIZE, np.float32),
        )


@compiled
def learn(
    memory: Memory,
    row: Row,
    new: NDArray[np.int32],
    tree: GrownTree,
    drafted: int,
    scored: Scored,
    at: int,
    nodes: int,
    length: int,
    scratch: LearnScratch,
) -> bool:
    """Update the estimator by right and wrong candidates, and the tables by what the model predicted at every node.

    :param new: what the row's text has not got yet; the text ends with the root.
    :param tree: the tree as it was drafted, ``drafted`` nodes (0: there is none); another one may have been scored.
    :param at: the row of the batch, of whose tree ``nodes`` were scored and ``length`` accepted.
    :param scratch: of ``nodes`` nodes or more; overwritten.
    :return: whether the path is one of this tree; else nothing is learned.
    """
    append_text(row, new)
    if not _has_row(scored, at, nodes, length):
        return False
    tokens, parent, path = scored.tokens[at, :nodes], scored.parent[at, :nodes], scored.path[at, :length]
    known, sound = _is_head(tree, drafted, tokens, parent), True
    for node in path:
        sound = sound and 0 <= node < nodes
    if not sound:
        return False
    for node in range(nodes):
        scratch.accepted[node] = False
        scratch.score[node] = tree.score[node] if known else np.float32(1)
    for node in path:
        scratch.accepted[node] = True
    drafted_path = _drafted_path(tree, drafted, tokens, path, scratch.depth)
    for place in range(drafted_path):
        then: Number = tokens[path[place + 1]] if place + 1 < length else scored.next_token[at]
        update_estimator(memory.estimator, tree, drafted, scratch.depth[place], then, scratch.total)
    _update_tables(memory, row, tokens, parent, length, scored.ids[at, :nodes], scored.probs[at, :nodes], scratch)
    return True


@compiled
def _has_row(scored: Scored, at: int, nodes: int, length: int) -> bool:
    """Whether there is a row ``at`` of so many nodes and accepted ones in all arrays."""
    batch = min(len(scored.tokens), len(scored.parent), len(scored.path), len(scored.next_token))
    wide = min(scored.tokens.shape[1], scored.parent.shape[1], scored.ids.shape[1], scored.probs.shape[1])
    has_probs = scored.ids.shape[2] <= scored.probs.shape[2]
    inside = 0 <= at < min(batch, len(scored.ids), len(scored.probs))
    return inside and has_probs and 0 < nodes <= wide and 0 < length <= scored.path.shape[1]


@compiled
def _is_head(tree: GrownTree, drafted: int, tokens: Nodes, parent: Nodes) -> bool:
    """Whether the scored tree is the beginning of the drafted one; a plugin may have changed it."""
    if len(tokens) > drafted or tokens[0] != tree.tokens[0]:
        return False
    same = True
    for node in range(1, len(tokens)):
        same = same and tree.tokens[node] == tokens[node] and tree.parent[node] == parent[node]
    return same


@compiled
def _drafted_path(
    tree: GrownTree, drafted: int, tokens: Nodes, path: NDArray[np.int64], columns: NDArray[np.int32]
) -> int:
    """Where the accepted nodes stand in the tree as it was drafted, and how many of them do; they may have been scored
    in another one, as a chain that was cut from it."""
    if drafted < 1 or tokens[path[0]] != tree.tokens[0]:
        return 0
    columns[0], found = 0, 1
    for node in range(1, drafted):
        parent: Number = columns[found - 1]
        if found < len(path) and tree.parent[node] == parent and tree.tokens[node] == tokens[path[found]]:
            columns[found] = node
            found += 1
    return found


@compiled
def update_estimator(
    estimator: Estimator, tree: GrownTree, drafted: int, parent: int, next_token: int, total: Floats
) -> None:
    """Learn from right and wrong candidates among the children of an accepted node; of others nothing is known.

    Nodes that were not scored count too: what followed their parents is known all the same. Else only the candidates of
    the highest estimates would ever be counted, and all others overrated.

    :param tree: the tree as it was grown, ``drafted`` nodes.
    :param parent: an accepted one, after which ``next_token`` came.
    :param total: ``[VECTOR_SIZE]`` is overwritten.
    """
    for node in range(parent + 1, drafted):
        if tree.parent[node] == parent:
            learn_outcome(estimator, tree.cells[node], tree.tokens[node] == next_token, total)


@compiled
def _update_tables(
    memory: Memory,
    row: Row,
    tokens: Nodes,
    parent: Nodes,
    length: int,
    top_ids: NDArray[np.int64],
    top_probs: Probs,
    scratch: LearnScratch,
) -> None:
    """Store what the model predicted at every node, rejected ones too, accepted ones (``length`` of them) last."""
    contexts, depth, accepted = scratch.contexts, scratch.depth, scratch.accepted
    nodes, recent = len(tokens), row.recent
    listed = min(scratch.ids.shape[1], top_ids.shape[1])  # a small vocabulary has fewer, other drafters may want more
    ids, probs = scratch.ids[:, :listed], top_probs[:, :listed]
    last_context(row, contexts[0])
    depth[0] = 0
    for node in range(nodes):
        for j in range(listed):
            ids[node, j] = top_ids[node, j]
    for node in range(1, nodes):
        lengthen(contexts[node], contexts[parent[node]], tokens[node])
        depth[node] = depth[parent[node]] + 1
    for node in range(nodes):
        prefetch_tables(memory, contexts[node])
    for turn in range(2):
        for node in range(nodes):
            if accepted[node] == (turn == 1) and ids[node, 0] != NO_TOKEN:
                context, request = contexts[node], recent.request[0]
                top_k_table.store(memory.top_k, context, ids[node], probs[node], accepted[node], request)
                running_means.update(memory.means, context, ids[node], probs[node])
    for node in range(nodes):
        if accepted[node] and depth[node] >= length - POSITIONS and ids[node, 0] != NO_TOKEN:
            add_position(recent, ids[node], probs[node])
    align_rejected(recent, depth[:nodes], scratch.score, length, ids, probs)
