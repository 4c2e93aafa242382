"""What a step costs, by its nodes: learned from the steps themselves, so that measuring costs nothing extra."""

from __future__ import annotations

import math
import statistics
from bisect import bisect_left
from collections import deque
from collections.abc import Hashable, Sequence
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

MEASURED = 2
"""Samples of a size from which on its cost is believed: the first such step may pay for what later ones find ready."""
DOUBT = 5
"""What the others say of a size counts as so many of its samples, divided by how many there are."""
LEGACY = 8
"""Samples of a size that a new curve takes over from another one."""
SHORT = 512
"""Contexts of fewer tokens cost alike."""
REACH = 4
"""So many times the nodes of the largest measured size are not guessed at."""


class CostCurve:
    """Milliseconds of a step by its nodes.

    A machine that is shared gets slower and faster as a whole. Samples are therefore divided by the present *tempo*,
    the latest steps' cost against what the curve says, so that sizes that were measured at different times compare. It
    is a median: the hiccup of one step must not make the next ones seem cheap.

    :param memory: samples kept of each size; their median counts.
    :param guess: what steps may cost, in plain steps, by their nodes: for hopes, until enough is measured.
    """

    def __init__(self, memory: int = 31, guess: dict[int, float] | None = None) -> None:
        self._memory = memory
        self._guess = {1: 1.0, **(guess or {})}
        self._samples: dict[int, deque[float]] = {}
        self._medians: dict[int, float] = {}
        """Of the samples."""
        self._paces: deque[float] = deque(maxlen=7)
        """The latest steps' cost against what the curve said."""
        self._lines: dict[int, tuple[list[int], list[float]]] = {}
        """See :meth:`_drawn`; until something new is learned."""

    def learn(self, nodes: int, milliseconds: float) -> None:
        """Note one step's wall-clock time."""
        if nodes in self._samples:
            self._paces.append(min(max(milliseconds / self(nodes), 0.5), 2.0))  # a slow first step is no pace
        tempo = statistics.median(self._paces) if self._paces else 1.0
        samples = self._samples.get(nodes) or deque(maxlen=self._memory)
        samples.append(milliseconds / tempo)
        self._medians[nodes] = statistics.median_low(samples)
        self._samples[nodes] = samples  # last: other threads may read the curve
        self._lines = {}

    def heir(self) -> CostCurve:
        """A new curve that starts from what this one says, and soon believes its own samples."""
        heir = CostCurve(self._memory)
        for nodes, samples in list(self._samples.items()):
            heir._medians[nodes] = self._medians[nodes]
            heir._samples[nodes] = deque([self._medians[nodes]] * min(len(samples), LEGACY), maxlen=self._memory)
        return heir

    def guess(self, rows: float) -> dict[int, float]:
        """What steps of a batch of ``rows`` times as many rows may cost, in its plain steps, by their nodes.

        What a step costs goes with the nodes of all rows together, so that steps of as many tell, as far as there are
        any. In a smaller batch trees cost no more plain steps than in this one. Empty if too little is known.
        """
        known, costs = self._drawn(MEASURED)
        rows, last = max(rows, 1.0), known[-1] if known else 0
        if len(known) < 2 or 2 * rows > last:
            return {}
        plain = float(np.interp(rows, known, costs))
        doublings = range(1, int(math.log2(last / rows)) + 1)
        return {2**times: float(np.interp(2**times * rows, known, costs)) / plain for times in doublings}

    @property
    def sizes(self) -> int:
        """How many sizes were measured."""
        return len(self._samples)

    def samples(self, nodes: int) -> int:
        """How many steps of this size were measured."""
        return len(self._samples.get(nodes, ()))

    def points(self) -> dict[int, float]:
        """Cost by nodes, at the tempo of the first steps; never falling with nodes."""
        return dict(zip(*self._drawn(1), strict=True)) if self._samples else {}

    def __call__(self, nodes: int) -> float:
        """Interpolated cost; 1.0 before anything was measured."""
        return float(np.interp(nodes, *self._drawn(1))) if self._samples else 1.0

    def hopeful(self, sizes: Sequence[int]) -> NDArray[np.float64]:
        """The least that steps of these sizes may be expected to cost; infinite where nothing is known.

        What was not measured may rise from the next smaller size half as steeply as a straight line through the others
        says (or what was guessed, where only plain steps were measured). What was measured counts the more the more
        samples there are: some slow first steps of a size must not keep it from ever being tried again. So whoever
        takes the size that seems best tries what might pay, and nothing else: where nodes are dear, in a large batch
        say, no step is wasted on large trees. A plain step is measured first.
        """
        if self.samples(1) < MEASURED:
            return np.where(np.asarray(sizes) == 1, 1.0, np.inf)
        known, costs = self._drawn(MEASURED)
        return np.array([self._hope(size, known, costs) for size in sizes])

    def _hope(self, size: int, known: list[int], costs: list[float]) -> float:
        if size == 1:
            return costs[0]
        if size > REACH * known[-1]:
            return math.inf
        at = bisect_left(known, size)
        measured = at < len(known) and known[at] == size
        below, above = at - 1, at + measured
        first, last = (below, above) if above < len(known) else (max(below - 1, 0), below)
        if first < last:
            slope = (costs[last] - costs[first]) / (known[last] - known[first])
            hope = costs[below] + slope * (size - known[below]) / 2
        else:  # nothing but plain steps to go by
            guess = float(np.interp(size, list(self._guess), list(self._guess.values())))
            hope = costs[0] * (1 + guess) / 2
        if not measured:
            return hope
        doubt = DOUBT / self.samples(size)
        return (self.samples(size) * costs[at] + doubt * hope) / (self.samples(size) + doubt)

    def behind(self, tokens: int) -> CostCurve:
        """What steps cost that score so many tokens beside their nodes."""
        return _Behind(self, tokens) if tokens else self

    def _drawn(self, least: int) -> tuple[list[int], list[float]]:
        """Sizes of ``least`` samples or more, and their costs."""
        line = self._lines.get(least)
        if line is None:
            sizes = [size for size in sorted(self._samples) if len(self._samples[size]) >= least]
            costs = [self._medians[size] for size in sizes]
            line = self._lines[least] = sizes, _rising(costs, [len(self._samples[size]) for size in sizes])
        return line


class _Behind(CostCurve):
    """A curve as it is seen by steps that score other tokens beside their nodes."""

    def __init__(self, whole: CostCurve, tokens: int) -> None:
        super().__init__()
        self._whole, self._tokens = whole, tokens

    def learn(self, nodes: int, milliseconds: float) -> None:
        self._whole.learn(nodes + self._tokens, milliseconds)

    def samples(self, nodes: int) -> int:
        return self._whole.samples(nodes + self._tokens)

    @property
    def sizes(self) -> int:
        return self._whole.sizes

    def points(self) -> dict[int, float]:
        return {n - self._tokens: cost for n, cost in self._whole.points().items() if n > self._tokens}

    def __call__(self, nodes: int) -> float:
        return self._whole(nodes + self._tokens)

    def hopeful(self, sizes: Sequence[int]) -> NDArray[np.float64]:
        return self._whole.hopeful([size + self._tokens for size in sizes])


def _rising(values: list[float], weights: list[int]) -> list[float]:
    """The never falling values that are nearest in weighted squares: pool adjacent violators."""
    pools: list[tuple[float, int, int]] = []  # mean, weight, members
    for value, weight in zip(values, weights, strict=True):
        pools.append((value, weight, 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (high, more, many), (low, less, few) = pools[-2:]
            pools[-2:] = [((high * more + low * less) / (more + less), more + less, many + few)]
    return [mean for mean, _, members in pools for _ in range(members)]


class CostCurves:
    """What steps of one model have cost: a curve for each way of running it, batch size and doubling of the context.

    Every node attends to the whole context, so nodes are dearer in long ones. A new curve starts from its nearest
    neighbour, which knows better than nobody. Kept for the process: whoever decodes again need not measure again.
    """

    def __init__(self) -> None:
        self._curves: dict[tuple[Any, ...], dict[int, CostCurve]] = {}
        """By batch size and everything else, and then by doublings of the context."""
        self._inheriting = Lock()

    def of(self, batch: int, how: tuple[Hashable, ...], length: int) -> CostCurve:
        """What such steps have cost so far.

        :param batch: rows.
        :param how: dtype, device, mode of the step (:func:`racer.engine.static.pool.step_mode`), packed weights or not:
            whatever makes curves incomparable.
        :param length: places that the rows take in the cache, padding included.
        """
        doublings = (length // SHORT).bit_length()
        with self._inheriting:
            curves = self._curves.setdefault((batch, *how), {})
            if doublings not in curves or not curves[doublings].sizes:
                curves[doublings] = self._heir(batch, how, doublings) or curves.get(doublings) or CostCurve()
            return curves[doublings]

    def _heir(self, batch: int, how: tuple[Hashable, ...], doublings: int) -> CostCurve | None:
        """What the nearest curve that knows anything says: of another length, or else of another batch."""
        if (curve := self._nearest(batch, how, doublings)) is not None:
            return curve.heir()
        others = [rows for rows, *other in self._curves if tuple(other) == how]
        for rows in sorted(others, key=lambda n: abs(math.log(n / batch))):
            curve = self._nearest(rows, how, doublings)
            if curve is not None and (guess := curve.guess(batch / rows)):
                return CostCurve(guess=guess)
        return None

    def _nearest(self, batch: int, how: tuple[Hashable, ...], doublings: int) -> CostCurve | None:
        curves = self._curves[batch, *how]
        known = [length for length, curve in curves.items() if curve.sizes]
        return curves[min(known, key=lambda length: abs(length - doublings))] if known else None
