"""What the rows of one batch have shown so far."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from racer.budgets.base import SIZES
from racer.step.request import Request
from racer.step.view import StepView

BELIEF = 2.0
"""Accepted nodes, as many as promised, on which the trust in a drafter rests before it has shown anything."""
LATEST = 16
"""Steps of a row by which its pace is judged."""
LAST = np.array(SIZES) - 1
"""Of each size the column of its last node."""


class Outlook:
    """What each row of a batch may expect of a step, by the step's size; old steps and trees count less and less.

    :param own: weight of a row's last tree; the rest is that of its latest ones.
    :param decay: weight of a row's earlier trees when one comes in.
    :param memory: weight of the steps so far when one comes in.
    """

    def __init__(self, own: float, decay: float, memory: float) -> None:
        self._places: dict[int, int] = {}
        """Of each request the row of the arrays."""
        self._own, self._decay, self._memory = own, decay, memory
        self.gains = np.zeros((0, len(SIZES)))
        """``[B, sizes]`` accepted nodes that are expected of a tree: of each row's last one, ..."""
        self.average = np.zeros((0, len(SIZES)))
        """... and of its latest ones."""
        self._seen = np.zeros((0, len(SIZES)))
        """Trees that each average rests on; old ones count less, whether later ones told of that size or not."""
        self.lately = np.zeros(4)
        """Of the latest steps: how many, what they cost in plain steps, and of a row the nodes kept and promised."""

    def admit(self, request: Request) -> None:
        """A row more."""
        self._places[request.id] = len(self.gains)
        self._each(lambda rows: np.vstack([rows, np.zeros(len(SIZES))]))

    def forget(self, request: Request) -> None:
        """A row less."""
        gone = self._places.pop(request.id)
        self._places = {id: place - (place > gone) for id, place in self._places.items()}
        self._each(lambda rows: np.delete(rows, gone, axis=0))

    def _each(self, change: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> None:
        self.gains, self.average, self._seen = map(change, (self.gains, self.average, self._seen))

    def places(self, view: StepView, rows: list[int]) -> list[int]:
        """Where these rows of a step stand in the arrays: a step's rows change as some come and some end."""
        return [self._places[view.requests[row].id] for row in rows]

    def hear(self, rows: list[int], scores: NDArray[np.float64], told: NDArray[np.bool_]) -> None:
        """Take in the scores ``[R, N]`` of these rows' trees, the root's too, which tell of the sizes ``told``."""
        guesses = np.nan_to_num(scores).clip(0, 1)  # plugins may score as they like
        guesses[:, 0] = 0.0
        gains = guesses.cumsum(1)[:, np.minimum(LAST, scores.shape[1] - 1)]
        self.gains[rows] = gains
        seen = self._seen[rows] * self._decay + told
        self._seen[rows] = seen
        self.average[rows] += np.where(told, (gains - self.average[rows]) / np.maximum(seen, 1), 0.0)

    def expected(self, rows: list[int]) -> NDArray[np.float64]:
        """``[sizes]`` accepted nodes of these rows, on average, corrected by how honest scores have been."""
        _, _, kept, promised = self.lately
        latest = np.maximum.accumulate(self.average[rows].mean(0))
        gains = self._own * self.gains[rows].mean(0) + (1 - self._own) * latest
        expected: NDArray[np.float64] = min((kept + BELIEF) / (promised + BELIEF), 2.0) * gains
        return expected

    def learn(self, rows: list[int], kept: float, width: int, cost: float) -> None:
        """Take in a step of ``width`` nodes that cost so many plain steps, and what these rows ``kept`` on average."""
        promised = float(np.interp(width, SIZES, self.gains[rows].mean(0))) if width > 1 else 0.0
        self.lately = self._memory * self.lately + (1.0, cost, kept, promised)


def slowest(view: StepView) -> list[int]:
    """Rows that had about most steps to go when this one began, at what their latest ones kept; all rows of a batch
    that others join, as nobody waits for its last one."""
    if view.joined:
        return [row for row, on in enumerate(view.active) if on]
    left = {row: _steps_left(request, view.step) for row, request in enumerate(view.requests) if view.active[row]}
    most = max(left.values())
    return [row for row, steps in left.items() if steps >= 0.9 * most]


def _steps_left(request: Request, step: int) -> float:
    """Steps that a request had to go before the step of this number, of which it may know the outcome by now.

    It does not count: rows that are about equal would be told apart by their luck.
    """
    latest, since = request.accept_lengths[max(step - LATEST, 0) : step], request.accept_lengths[step:]
    return (request.remaining + sum(since)) * (len(latest) + 1) / (sum(latest) + 1)
