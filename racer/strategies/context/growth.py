"""Growing a tree: best-first over all candidates, by their estimated probabilities."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from racer.kernels.jit import Number, compiled, inlined
from racer.strategies.context import history
from racer.strategies.context.candidates import MAX_CANDIDATES
from racer.strategies.context.estimator import MAX_PROB, Floats, estimate, prefetch_vectors
from racer.strategies.context.extraction import NodeFeatures, extract
from racer.strategies.context.features import FEATURES, MATCH
from racer.strategies.context.frontier import Frontier, best, clear, pop_best, push, threshold
from racer.strategies.context.hashing import CONTEXT_WIDTH, lengthen
from racer.strategies.context.history import GRAM
from racer.strategies.context.matches import Matches, follow, look_up
from racer.strategies.context.memory import Memory, Row, append_text, last_context, prefetch_tables
from racer.strategies.context.top_k_table import MAX_CONTEXT


class GrownTree(NamedTuple):
    """A tree, and why each node is in it."""

    tokens: NDArray[np.int64]
    """``[N]``"""
    parent: NDArray[np.int64]
    """``[N]`` -1 at the root."""
    score: NDArray[np.float32]
    """``[N]`` estimated probability that the whole path to the node is accepted."""
    cells: NDArray[np.int16]
    """``[N, FEATURES]`` of the node's features, as a candidate."""

    @classmethod
    def of(cls, size: int) -> GrownTree:
        """Room for ``size`` nodes."""
        return cls(
            np.zeros(size, np.int64),
            np.full(size, -1, np.int64),
            np.ones(size, np.float32),
            np.zeros((size, FEATURES), np.int16),
        )


class GrowScratch(NamedTuple):
    """What growing a tree works in; used again for the next."""

    contexts: NDArray[np.int32]
    """``[N, CONTEXT_WIDTH]`` the tokens up to each node, the latest first."""
    depth: NDArray[np.int32]
    """``[N]``"""
    prob: NDArray[np.float32]
    """``[N]`` estimated, of each node if its parent is right."""
    matches: Matches
    frontier: Frontier
    features: NodeFeatures
    child: NDArray[np.int32]
    """``[MAX_CONTEXT]`` the tokens up to a candidate."""
    estimates: Floats
    """``[MAX_CANDIDATES]`` estimated probabilities of the candidates."""

    @classmethod
    def of(cls, size: int, k: int) -> GrowScratch:
        """For trees of up to ``size`` nodes, from predictions that list up to ``k`` tokens."""
        return cls(
            np.empty((size, CONTEXT_WIDTH), np.int32),
            np.empty(size, np.int32),
            np.empty(size, np.float32),
            Matches.of(size),
            Frontier.of(size),
            NodeFeatures.of(k),
            np.zeros(MAX_CONTEXT, np.int32),
            np.zeros(MAX_CANDIDATES, np.float32),
        )


@compiled
def grow(
    memory: Memory,
    row: Row,
    new: NDArray[np.int32],
    budget: int,
    chain: bool,
    vocab_size: int,
    least: Number,
    tree: GrownTree,
    scratch: GrowScratch,
    batch: NDArray[np.int64],
    reals: NDArray[np.float64],
    at: int,
) -> int:
    """The tree of most expected accepted tokens for its size, among all trees over the candidates.

    A node's score is its parent's times its own estimated probability, so it never rises along a path; then taking the
    best of the frontier, again and again, gives the best tree of every size at once. For a chain no more than the best
    child of each node is kept.

    :param new: what the row's text has not got yet; the text ends with the root.
    :param budget: nodes, the root included.
    :param chain: no node has two children.
    :param least: no node is scored below it.
    :param tree: receives the tree; of ``budget`` nodes or more, as is ``scratch``.
    :param scratch: what it holds is overwritten.
    :param batch: ``[4, B, N]``, whose row ``at`` receives the tree's tokens and parents as well, and behind the sources
        the bits of its scores: what goes out, while ``tree`` waits for the verdict.
    :param reals: the same memory, read as floats.
    :return: the tree's nodes.
    """
    prefetch_vectors(memory.estimator)
    append_text(row, new)
    _start(row, tree, scratch)
    node, size = 0, 1
    while size < budget:
        _expand(memory, row, 1 if chain else budget - size, vocab_size, least, node, tree, scratch)
        if scratch.frontier.size[0] == 0:
            break
        node = size
        _add_best(memory, row, node, tree, scratch)
        size += 1
    for node in range(1, size):
        batch[0, at, node], batch[1, at, node] = tree.tokens[node], tree.parent[node]
        reals[3, at, node] = tree.score[node]
    return size


@compiled
def _start(row: Row, tree: GrownTree, scratch: GrowScratch) -> None:
    """Make the row's last token the root."""
    last_context(row, scratch.contexts[0])
    clear(scratch.frontier)
    scratch.matches.found[0], scratch.depth[0], scratch.prob[0] = 0, 0, 1
    tree.tokens[0], tree.parent[0], tree.score[0] = scratch.contexts[0, 0], -1, 1


@inlined
def _expand(
    memory: Memory,
    row: Row,
    room: int,
    vocab_size: int,
    least: Number,
    node: int,
    tree: GrownTree,
    scratch: GrowScratch,
) -> None:
    """Push the children that ``node`` may get, if any of them may be among the next ``room`` nodes."""
    matches, context, score = scratch.matches, scratch.contexts[node], tree.score[node]
    to_beat = threshold(scratch.frontier, room, least)
    if score * np.float32(MAX_PROB) > to_beat:
        if memory.enabled[MATCH]:
            look_up(matches, node, context, row.text, row.singles, memory.past)
        depth, prob = scratch.depth[node], scratch.prob[node]
        extract(scratch.features, memory, row, matches, node, context, depth, prob, vocab_size, to_beat / score)
        _push_candidates(memory, row, scratch, room, least, node, score)


@compiled
def _push_candidates(
    memory: Memory, row: Row, scratch: GrowScratch, room: int, least: Number, node: int, score: Number
) -> None:
    """Estimate every candidate, and push those that are good enough."""
    frontier, candidates, estimates = scratch.frontier, scratch.features.candidates, scratch.estimates
    estimate(memory.estimator, candidates.used[0], candidates.totals, estimates)
    for i in range(candidates.used[0]):
        path_score = score * min(estimates[i], candidates.bound[i])
        if path_score > threshold(frontier, room, least):
            place = push(frontier, room, path_score, node, candidates.tokens[i])
            for feature in range(FEATURES):
                frontier.cells[place, feature] = candidates.cells[i, feature]
            if place == best(frontier):
                _prefetch_best(memory, row, scratch)


@inlined
def _add_best(memory: Memory, row: Row, node: int, tree: GrownTree, scratch: GrowScratch) -> None:
    """Make the best candidate ``node``, and follow its parent's matches."""
    frontier, contexts, matches = scratch.frontier, scratch.contexts, scratch.matches
    place = pop_best(frontier)
    _prefetch_best(memory, row, scratch)
    parent, token = frontier.parent[place], frontier.token[place]
    tree.tokens[node], tree.parent[node], tree.score[node] = token, parent, frontier.score[place]
    for feature in range(FEATURES):
        tree.cells[node, feature] = frontier.cells[place, feature]
    lengthen(contexts[node], contexts[parent], token)
    scratch.depth[node], matches.found[node] = scratch.depth[parent] + 1, 0
    scratch.prob[node] = tree.score[node] / tree.score[parent]
    follow(matches, parent, node, token, row.text, memory.past)


@compiled
def _prefetch_best(memory: Memory, row: Row, scratch: GrowScratch) -> None:
    """The best candidate will soon be a node, and be expanded."""
    frontier = scratch.frontier
    if frontier.size[0] > 0:
        place = best(frontier)
        lengthen(scratch.child, scratch.contexts[frontier.parent[place]], frontier.token[place])
        prefetch_tables(memory, scratch.child)
        history.prefetch_gram(memory.past, scratch.child, GRAM)
        history.prefetch_gram(row.text, scratch.child, GRAM)
        history.prefetch_gram(row.singles, scratch.child, 1)
