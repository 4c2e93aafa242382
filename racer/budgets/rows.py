"""What the rows of one call have shown so far."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from racer.budgets.base import SIZES
from racer.request import Request, StepView

BELIEF = 2.0
"""Accepted nodes, as many as promised, on which the trust in a drafter rests before it has shown anything."""
LATEST = 16
"""Steps of a row by which its pace is judged."""
_LAST = np.array(SIZES) - 1


class Outlook:
    """What each row of a call may expect of a step, by the step's size; old steps and trees count less and less.

    :param requests: the call's rows.
    :param own: weight of a row's last tree; the rest is that of its latest ones.
    :param decay: weight of a row's earlier trees when one comes in.
    :param memory: weight of the steps so far when one comes in.
    """

    def __init__(self, requests: Sequence[Request], own: float, decay: float, memory: float) -> None:
        self._places = {request.id: place for place, request in enumerate(requests)}
        self._own, self._decay, self._memory = own, decay, memory
        shape = len(requests), len(SIZES)
        self.gains = np.zeros(shape)
        """``[B, sizes]`` accepted nodes that are expected of a tree: of each row's last one, ..."""
        self.average = np.zeros(shape)
        """... and of its latest ones."""
        self._seen = np.zeros(shape)
        """Trees that each average rests on; old ones count less, whether later ones told of that size or not."""
        self.kept, self.promised = np.zeros((2, len(requests)))
        """``[B]`` of the latest steps: accepted nodes, and how many were expected to be."""
        self.steps, self.spent = 0.0, 0.0
        """Of them: how many, and what they cost in plain steps."""

    def places(self, requests: Sequence[Request]) -> list[int]:
        """Where these rows stand in the arrays."""
        return [self._places[request.id] for request in requests]

    def hear(self, rows: list[int], scores: NDArray[np.float64], told: NDArray[np.bool_]) -> None:
        """Take in the scores ``[R, N]`` of these rows' trees, the root's too, which tell of the sizes ``told``."""
        guesses = np.nan_to_num(scores).clip(0, 1)  # plugins may score as they like
        guesses[:, 0] = 0.0
        gains = guesses.cumsum(1)[:, np.minimum(_LAST, scores.shape[1] - 1)]
        self.gains[rows] = gains
        seen = self._seen[rows] * self._decay + told
        self._seen[rows] = seen
        self.average[rows] += np.where(told, (gains - self.average[rows]) / np.maximum(seen, 1), 0.0)

    def expected(self, rows: list[int]) -> NDArray[np.float64]:
        """``[sizes]`` accepted nodes of these rows, on average, corrected by how honest their scores have been."""
        honesty = np.minimum((self.kept[rows] + BELIEF) / (self.promised[rows] + BELIEF), 2.0)
        latest = np.maximum.accumulate(self.average[rows], axis=1)
        mean: NDArray[np.float64] = (honesty[:, None] * (self._own * self.gains[rows] + (1 - self._own) * latest)).mean(
            0
        )
        return mean

    def learn(self, rows: list[int], kept: NDArray[np.float64], width: int, cost: float) -> None:
        """Take in a step of ``width`` nodes that cost so many plain steps, and what these rows ``kept [R]`` of it."""
        self.steps, self.spent = self._memory * self.steps + 1, self._memory * self.spent + cost
        self.kept *= self._memory
        self.promised *= self._memory
        self.kept[rows] += kept
        self.promised[rows] += [np.interp(width, SIZES, gains) for gains in self.gains[rows]]


def slowest(view: StepView) -> list[Request]:
    """The rows that had about most steps to go when this one began, at what their latest ones kept."""
    active = [request for request, on in zip(view.requests, view.active, strict=True) if on]
    left = [_steps_left(request, view.step) for request in active]
    return [request for request, steps in zip(active, left, strict=True) if steps >= 0.9 * max(left)]


def _steps_left(request: Request, step: int) -> float:
    """Steps that a request had to go before the step of this number, of which it may know the outcome by now.

    It does not count: rows that are about equal would be told apart by their luck.
    """
    latest, since = request.accept_lengths[max(step - LATEST, 0) : step], request.accept_lengths[step:]
    return (request.remaining + sum(since)) * (len(latest) + 1) / (sum(latest) + 1)
