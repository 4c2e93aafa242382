"""Growing a tree: best-first over everything that the voices name."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from racer.kernels.jit import Number, compiled
from racer.strategies.context import history, odds
from racer.strategies.context.candidates import MOST
from racer.strategies.context.cues import LONGEST
from racer.strategies.context.evidence import Evidence, collect
from racer.strategies.context.frontier import Frontier, bar, best, clear, offer, take
from racer.strategies.context.hashing import WIDTH, lengthen
from racer.strategies.context.history import GRAM
from racer.strategies.context.matches import Matches, follow, look_up
from racer.strategies.context.memory import Memory, Row, expect, last_context, read
from racer.strategies.context.odds import SUREST, Floats, chances
from racer.strategies.context.voices import MATCH, VOICES


class Growth(NamedTuple):
    """A tree, and why each node is in it."""

    tokens: NDArray[np.int64]
    """``[N]``"""
    parent: NDArray[np.int64]
    """``[N]`` -1 at the root."""
    score: NDArray[np.float32]
    """``[N]`` estimated probability that the whole path to the node is accepted."""
    notes: NDArray[np.int16]
    """``[N, VOICES]`` what the voices said of it."""

    @classmethod
    def of(cls, size: int) -> Growth:
        """Room for ``size`` nodes."""
        return cls(
            np.zeros(size, np.int64),
            np.full(size, -1, np.int64),
            np.ones(size, np.float32),
            np.zeros((size, VOICES), np.int16),
        )


class Desk(NamedTuple):
    """Where a tree is grown; used again for the next."""

    contexts: NDArray[np.int32]
    """``[N, WIDTH]`` the tokens up to each node, the latest first."""
    depth: NDArray[np.int32]
    """``[N]``"""
    chance: NDArray[np.float32]
    """``[N]`` estimated, of each node if its parent is right."""
    matches: Matches
    frontier: Frontier
    evidence: Evidence
    child: NDArray[np.int32]
    """``[LONGEST]`` the tokens up to a candidate."""
    found: Floats
    """``[MOST]`` estimated probabilities of the candidates."""

    @classmethod
    def of(cls, size: int, k: int) -> Desk:
        """For trees of up to ``size`` nodes, from statements that name up to ``k`` tokens."""
        return cls(
            np.empty((size, WIDTH), np.int32),
            np.empty(size, np.int32),
            np.empty(size, np.float32),
            Matches.of(size),
            Frontier.of(size),
            Evidence.of(k),
            np.zeros(LONGEST, np.int32),
            np.zeros(MOST, np.float32),
        )


@compiled
def grow(
    memory: Memory,
    row: Row,
    new: NDArray[np.int32],
    budget: int,
    vocab_size: int,
    least: Number,
    growth: Growth,
    desk: Desk,
    batch: NDArray[np.int64],
    reals: NDArray[np.float64],
    at: int,
) -> int:
    """The tree of most expected accepted tokens for its size, among all trees over the candidates.

    A node's score is its parent's times its own estimated chance, so it never rises along a path; then taking the best
    of the frontier, again and again, gives the best tree of every size at once.

    :param new: what the row's text has not got yet; the text ends with the root.
    :param budget: nodes, the root included.
    :param least: no node is scored below it.
    :param growth: receives the tree; of ``budget`` nodes or more, as is ``desk``.
    :param desk: what lies on it is overwritten.
    :param batch: ``[4, B, N]``, whose row ``at`` receives the tree's tokens and parents as well, and behind the sources
        the bits of its scores: what goes out, while ``growth`` waits for the verdict.
    :param reals: the same memory, read as floats.
    :return: the tree's nodes.
    """
    contexts, depth, own, matches, frontier, evidence, _, _ = desk
    odds.expect(memory.odds)
    read(row, new)
    last_context(row, contexts[0])
    clear(frontier)
    matches.found[0], depth[0], own[0] = 0, 0, 1
    growth.tokens[0], growth.parent[0], growth.score[0] = contexts[0, 0], -1, 1
    node, count = 0, 1
    while count < budget:
        room, floor = budget - count, bar(frontier, budget - count, least)
        if growth.score[node] * np.float32(SUREST) > floor:  # else no child of it can become a node
            if memory.heard[MATCH]:
                look_up(matches, node, contexts[node], row.text, row.singles, memory.past)
            wanted = floor / growth.score[node]
            collect(evidence, memory, row, matches, node, contexts[node], depth[node], own[node], vocab_size, wanted)
            _weigh(memory, row, desk, room, least, node, growth.score[node])
        if frontier.size[0] == 0:
            break
        place = take(frontier)
        _expect_next(memory, row, desk)
        node, parent, token = count, frontier.parent[place], frontier.token[place]
        growth.tokens[node], growth.parent[node], growth.score[node] = token, parent, frontier.score[place]
        for i in range(VOICES):
            growth.notes[node, i] = frontier.notes[place, i]
        lengthen(contexts[node], contexts[parent], token)
        depth[node], matches.found[node] = depth[parent] + 1, 0
        own[node] = growth.score[node] / growth.score[parent]
        follow(matches, parent, node, token, row.text, memory.past)
        count += 1
    for node in range(1, count):
        batch[0, at, node], batch[1, at, node] = growth.tokens[node], growth.parent[node]
        reals[3, at, node] = growth.score[node]
    return count


@compiled
def _weigh(memory: Memory, row: Row, desk: Desk, room: int, least: Number, node: int, score: Number) -> None:
    """Estimate every candidate, and offer it to the frontier."""
    frontier, candidates, found = desk.frontier, desk.evidence.candidates, desk.found
    chances(memory.odds, candidates.used[0], candidates.totals, found)
    for i in range(candidates.used[0]):
        estimate = score * min(found[i], candidates.most[i])
        if estimate > bar(frontier, room, least):
            place = offer(frontier, room, estimate, node, candidates.tokens[i])
            for voice in range(VOICES):
                frontier.notes[place, voice] = candidates.cells[i, voice]
            if place == best(frontier):
                _expect_next(memory, row, desk)


@compiled
def _expect_next(memory: Memory, row: Row, desk: Desk) -> None:
    """The best candidate will soon be a node, and be asked for its children."""
    frontier = desk.frontier
    if frontier.size[0] > 0:
        place = best(frontier)
        lengthen(desk.child, desk.contexts[frontier.parent[place]], frontier.token[place])
        expect(memory, desk.child)
        history.expect(memory.past, desk.child, GRAM)
        history.expect(row.text, desk.child, GRAM)
        history.expect(row.singles, desk.child, 1)
