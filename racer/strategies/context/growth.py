"""Growing a tree: best-first over everything that the voices name."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from racer.strategies.context.compiled import Number, compiled
from racer.strategies.context.evidence import Evidence, collect, refine
from racer.strategies.context.frontier import SITUATION_A, SITUATION_B, Frontier, bar, clear, offer, take
from racer.strategies.context.hashing import WIDTH, Context
from racer.strategies.context.matches import Matches, follow, seek
from racer.strategies.context.memory import Memory, Row
from racer.strategies.context.odds import SUREST, chance
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
    """``[N, VOICES + 2]`` what the voices said of it, and the situations whose weights were used."""

    @classmethod
    def of(cls, budget: int) -> Growth:
        """Room for ``budget`` nodes."""
        return cls(
            np.zeros(budget, np.int64),
            np.full(budget, -1, np.int64),
            np.ones(budget, np.float32),
            np.zeros((budget, VOICES + 2), np.int16),
        )


class Desk(NamedTuple):
    """Where a tree is grown; used again for the next."""

    contexts: NDArray[np.int32]
    """``[N, WIDTH]`` the tokens up to each node, the latest first."""
    depth: NDArray[np.int32]
    """``[N]``"""
    matches: Matches
    frontier: Frontier
    evidence: Evidence

    @classmethod
    def of(cls, budget: int, k: int) -> Desk:
        """For trees of ``budget`` nodes, from statements that name up to ``k`` tokens."""
        return cls(
            np.empty((budget, WIDTH), np.int32),
            np.empty(budget, np.int32),
            Matches.of(budget),
            Frontier.of(budget),
            Evidence.of(k),
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
    contexts, depth, matches, frontier, evidence = desk
    clear(frontier)
    matches.found[0], depth[0] = 0, 0
    for i in range(len(root)):
        contexts[0, i] = root[i]
    growth.tokens[0], growth.parent[0], growth.score[0] = root[0], -1, 1
    node, count = 0, 1
    while count < budget:
        room, floor = budget - count, bar(frontier, budget - count, least)
        if growth.score[node] * np.float32(SUREST) > floor:  # else no child of it can become a node
            if memory.heard[MATCH]:
                seek(matches, node, contexts[node], row.text, True)
                seek(matches, node, contexts[node], memory.past, False)
            wanted = floor / growth.score[node]
            situation = collect(evidence, memory, row, matches, node, contexts[node], depth[node], vocab_size, wanted)
            _weigh(frontier, memory, evidence, room, least, node, growth.score[node], depth[node], situation)
        if frontier.size[0] == 0:
            break
        place = take(frontier)
        node, parent, token = count, frontier.parent[place], frontier.token[place]
        growth.tokens[node], growth.parent[node], growth.score[node] = token, parent, frontier.score[place]
        for i in range(VOICES + 2):
            growth.notes[node, i] = frontier.notes[place, i]
        contexts[node, 0] = token
        for i in range(1, len(root)):
            contexts[node, i] = contexts[parent, i - 1]
        depth[node], matches.found[node] = depth[parent] + 1, 0
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
    depth: int,
    situation: int,
) -> None:
    """Estimate every candidate, and offer it to the frontier."""
    for i in range(evidence.candidates.used[0]):
        cells, finer = evidence.candidates.cells[i], refine(evidence, i, depth)
        estimate = score * chance(memory.odds, situation, finer, cells)
        if estimate > bar(frontier, room, least):
            place = offer(frontier, room, estimate, node, evidence.candidates.tokens[i])
            for voice in range(VOICES):
                frontier.notes[place, voice] = cells[voice]
            frontier.notes[place, SITUATION_A], frontier.notes[place, SITUATION_B] = situation, finer
