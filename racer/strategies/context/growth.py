"""Growing a tree: best-first over everything that the voices name."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from racer.strategies.context.compiled import Number, compiled
from racer.strategies.context.evidence import Evidence, collect
from racer.strategies.context.frontier import Frontier, bar, clear, offer, take
from racer.strategies.context.hashing import WIDTH, Context
from racer.strategies.context.matches import Matches, follow, look_up
from racer.strategies.context.memory import Memory, Row
from racer.strategies.context.odds import SIZE, SUREST, Floats, add_up, add_up_from, chance
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
    def of(cls, budget: int) -> Growth:
        """Room for ``budget`` nodes."""
        return cls(
            np.zeros(budget, np.int64),
            np.full(budget, -1, np.int64),
            np.ones(budget, np.float32),
            np.zeros((budget, VOICES), np.int16),
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
    sums: Floats
    """``[2, SIZE]`` of vectors: of what the voices say of the unnamed, and of a candidate."""

    @classmethod
    def of(cls, budget: int, k: int) -> Desk:
        """For trees of ``budget`` nodes, from statements that name up to ``k`` tokens."""
        return cls(
            np.empty((budget, WIDTH), np.int32),
            np.empty(budget, np.int32),
            np.empty(budget, np.float32),
            Matches.of(budget),
            Frontier.of(budget),
            Evidence.of(k),
            np.empty((2, SIZE), np.float32),
        )


@compiled
def grow(memory: Memory, row: Row, root: Context, vocab_size: int, least: Number, growth: Growth, desk: Desk) -> int:
    """The tree of most expected accepted tokens for its size, among all trees over the candidates.

    A node's score is its parent's times its own estimated chance, so it never rises along a path; then taking the best
    of the frontier, again and again, gives the best tree of every size at once.

    :param root: the tokens up to the root, the latest first.
    :param least: no node is scored below it.
    :param growth: receives the tree; its size is the budget.
    :param desk: of the same size; what lies on it is overwritten.
    :return: its nodes, the root included.
    """
    budget = len(growth.tokens)
    contexts, depth, own, matches, frontier, evidence, sums = desk
    clear(frontier)
    matches.found[0], depth[0], own[0] = 0, 0, 1
    for i in range(len(root)):
        contexts[0, i] = root[i]
    growth.tokens[0], growth.parent[0], growth.score[0] = root[0], -1, 1
    node, count = 0, 1
    while count < budget:
        room, floor = budget - count, bar(frontier, budget - count, least)
        if growth.score[node] * np.float32(SUREST) > floor:  # else no child of it can become a node
            if memory.heard[MATCH]:
                look_up(matches, node, contexts[node], row.text, row.singles, memory.past)
            wanted = floor / growth.score[node]
            collect(evidence, memory, row, matches, node, contexts[node], depth[node], own[node], vocab_size, wanted)
            _weigh(frontier, memory, evidence, room, least, node, growth.score[node], sums)
        if frontier.size[0] == 0:
            break
        place = take(frontier)
        node, parent, token = count, frontier.parent[place], frontier.token[place]
        growth.tokens[node], growth.parent[node], growth.score[node] = token, parent, frontier.score[place]
        for i in range(VOICES):
            growth.notes[node, i] = frontier.notes[place, i]
        contexts[node, 0] = token
        for i in range(1, len(root)):
            contexts[node, i] = contexts[parent, i - 1]
        depth[node], matches.found[node] = depth[parent] + 1, 0
        own[node] = growth.score[node] / growth.score[parent]
        follow(matches, parent, node, token, row.text, memory.past)
        count += 1
    return count


@compiled
def _weigh(
    frontier: Frontier,
    memory: Memory,
    evidence: Evidence,
    room: int,
    least: Number,
    node: int,
    score: Number,
    sums: Floats,
) -> None:
    """Estimate every candidate, and offer it to the frontier."""
    candidates = evidence.candidates
    add_up(memory.odds, candidates.unnamed, sums[0])
    for i in range(candidates.used[0]):
        add_up_from(memory.odds, candidates.unnamed, sums[0], candidates.cells[i], sums[1])
        estimate = score * min(chance(memory.odds, sums[1]), candidates.most[i])
        if estimate > bar(frontier, room, least):
            place = offer(frontier, room, estimate, node, candidates.tokens[i])
            for voice in range(VOICES):
                frontier.notes[place, voice] = candidates.cells[i, voice]
