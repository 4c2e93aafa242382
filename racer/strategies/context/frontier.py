"""The best candidates so far, no more of them than may still become nodes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from racer.kernels.jit import Number, compiled
from racer.strategies.context.features import FEATURES


class Frontier(NamedTuple):
    """Sorted by score. With room for r nodes, whatever stands behind the r-th candidate never becomes one."""

    order: NDArray[np.int32]
    """``[N]`` places of the candidates, the worst first."""
    size: NDArray[np.int64]
    """``[1]``"""
    score: NDArray[np.float32]
    """``[N]`` by place, as what follows."""
    parent: NDArray[np.int32]
    token: NDArray[np.int32]
    cells: NDArray[np.int16]
    """``[N, FEATURES]`` of the candidate's features."""

    @classmethod
    def of(cls, size: int) -> Frontier:
        """Room for ``size`` candidates; :func:`clear` it before use."""
        return cls(
            np.empty(size, np.int32),
            np.zeros(1, np.int64),
            np.empty(size, np.float32),
            np.empty(size, np.int32),
            np.empty(size, np.int32),
            np.empty((size, FEATURES), np.int16),
        )


@compiled
def clear(frontier: Frontier) -> None:
    """Forget all candidates."""
    frontier.size[0] = 0
    for place in range(len(frontier.order)):
        frontier.order[place] = place


@compiled
def threshold(frontier: Frontier, room: int, least: Number) -> Number:
    """The score that a candidate must beat: ``least``, or the worst kept one's where there are ``room`` of them."""
    if room == 0:
        return np.float32(2)
    return frontier.score[frontier.order[0]] if frontier.size[0] >= room else np.float32(least)


@compiled
def push(frontier: Frontier, room: int, score: Number, parent: int, token: int) -> Number:
    """Keep a candidate that beats the threshold, instead of the worst one if there are ``room`` already; its place."""
    order, size = frontier.order, frontier.size[0]
    if size >= room:
        place, first, last = order[0], 0, size - 1  # the worst one's place is free; all that are worse move down
        while first < last and frontier.score[order[first + 1]] < score:
            order[first] = order[first + 1]
            first += 1
        order[first] = place
    else:
        place, i = order[size], size  # order is a permutation: behind the kept ones stand the free places
        while i > 0 and frontier.score[order[i - 1]] >= score:
            order[i] = order[i - 1]
            i -= 1
        order[i] = place
        frontier.size[0] = size + 1
    frontier.score[place], frontier.parent[place], frontier.token[place] = score, parent, token
    return place


@compiled
def best(frontier: Frontier) -> Number:
    """The place of the best candidate, of which there is one."""
    return frontier.order[frontier.size[0] - 1]


@compiled
def pop_best(frontier: Frontier) -> Number:
    """Remove the best candidate; what is at its place stays until the next push."""
    frontier.size[0] -= 1
    return frontier.order[frontier.size[0]]
