"""How many nodes a step may score."""

from __future__ import annotations

import statistics
from collections import deque

import numpy as np
from numpy.typing import NDArray

from racer.hookspecs import hookimpl
from racer.plugins import Registry
from racer.request import StepView, Verdict

SIZES = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64)
"""Budgets that ``auto`` chooses from."""
FIRST_SIZES = (64, 16, 1)
"""Tried first, twice over, so that the cost curve has a beginning, a middle and an end."""


class CostCurve:
    """Milliseconds of a step by its nodes, learned from the steps themselves: measuring costs nothing extra."""

    def __init__(self, memory: int = 9) -> None:
        self._memory = memory
        self._samples: dict[int, deque[float]] = {}
        self._medians: dict[int, float] = {}
        self._line: tuple[list[int], list[float]] | None = None
        """Sizes and their costs, until something new is learned."""

    def learn(self, nodes: int, milliseconds: float) -> None:
        """Note one step's wall-clock time."""
        samples = self._samples.setdefault(nodes, deque(maxlen=self._memory))
        samples.append(milliseconds)
        self._medians[nodes] = statistics.median(samples)
        self._line = None

    def points(self) -> dict[int, float]:
        """Median of the latest samples, by nodes; never falling with nodes."""
        return dict(zip(*self._drawn(), strict=True)) if self._medians else {}

    def __call__(self, nodes: int) -> float:
        """Interpolated cost; 1.0 before anything was measured."""
        return float(np.interp(nodes, *self._drawn())) if self._medians else 1.0

    def _drawn(self) -> tuple[list[int], list[float]]:
        if self._line is None:
            sizes = sorted(self._medians)
            costs: list[float] = np.maximum.accumulate([self._medians[size] for size in sizes]).tolist()
            self._line = (sizes, costs)
        return self._line


class Budget:
    """Says how many nodes a step may score."""

    def nodes(self, view: StepView) -> int:
        """At least 1 (plain decoding), the root included."""
        raise NotImplementedError

    def observe(self, view: StepView, verdict: Verdict) -> None:
        """Learn from a step."""


class Fixed(Budget):
    """Always the same."""

    def __init__(self, nodes: int) -> None:
        self._nodes = nodes

    def nodes(self, view: StepView) -> int:
        return self._nodes


class Auto(Budget):
    """The size with most accepted tokens per millisecond, both measured here.

    A tree's first n columns are the tree of budget n, so each verdict tells what every smaller budget would have
    accepted. These counts, and the cost of the nodes that the drafter really gave, are averaged: plainly at first, then
    with exponential decay. Larger trees than the best are tried as often as ``waste`` of the time allows, so that a
    drafter that warms up, or a change of text, is noticed.
    """

    def __init__(self, decay: float = 0.95, waste: float = 0.03) -> None:
        self._decay = decay
        self._waste = waste
        self._sizes = np.array(SIZES)
        self._accepted = 1 + 0.5 * np.log2(self._sizes)  # hopeful: a cold drafter deserves a chance
        self._used = self._sizes.astype(float)
        """Nodes that the drafter gives when asked for each size."""
        self._seen = np.full(len(SIZES), 4.0)
        """Verdicts that each average rests on; the prior counts as a few."""
        self._purse = 0.0
        """Milliseconds saved up for trying larger trees."""
        self._asked = 0
        self._steps = 0

    def nodes(self, view: StepView) -> int:
        if self._steps < 2 * len(FIRST_SIZES):
            self._asked = FIRST_SIZES[self._steps % len(FIRST_SIZES)]
        else:
            self._asked = self._choose(np.array([view.step_cost(round(used)) for used in self._used]))
        self._steps += 1
        return self._asked

    def _choose(self, costs: NDArray[np.float64]) -> int:
        best = int(np.argmax(np.maximum.accumulate(self._accepted) / costs))
        larger = min(i for i, size in enumerate(SIZES) if size >= 2 * SIZES[best] or size == SIZES[-1])
        trial = max(larger, SIZES.index(8))  # from plain decoding, two nodes would show next to nothing
        self._purse += self._waste * costs[best]
        extra = costs[trial] - costs[best]
        if trial > best and self._purse >= extra:
            self._purse = 0.0
            return SIZES[trial]
        return SIZES[best]

    def observe(self, view: StepView, verdict: Verdict) -> None:
        host = verdict.host
        if host is None or not any(view.active) or view.settled.budget != self._asked:
            return  # somebody else said how many nodes, so the tree's size tells nothing about the drafter
        rows = np.flatnonzero(view.active)
        width = int(host.count[rows].max())
        # what a larger budget adds is unknown when the tree was full; a tree that was not full is all there is
        known = self._sizes <= self._asked if width >= self._asked else self._sizes > 0
        reached = np.mean([(host.path[row, : host.length[row], None] < self._sizes).sum(0) for row in rows], axis=0)
        self._seen[known] += 1
        step = np.maximum(1 / self._seen, 1 - self._decay)
        self._accepted[known] += (step * (reached - self._accepted))[known]
        self._used[known] += (step * (np.minimum(self._sizes, width) - self._used))[known]


@hookimpl
def racer_register(registry: Registry) -> None:
    registry.budget("auto", Auto, summary="the size with most accepted tokens per measured millisecond")
