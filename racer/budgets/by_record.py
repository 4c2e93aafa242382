"""The size of trees that have no scores, by what trees of each size have kept."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from racer.budgets.base import SIZES, Budget
from racer.step.stats import StepStats
from racer.step.verdict import Verdict
from racer.step.view import StepView


class ByRecord(Budget):
    """For drafters whose trees have no scores: the size with most accepted tokens per millisecond, both measured.

    A tree's first n columns are the tree of budget n, so each verdict tells what every smaller budget would have
    accepted. These counts, and the cost of the nodes that the drafter really gave, are averaged over the steps in which
    it gave any: plainly at first, then with exponential decay. Steps in which it has nothing to say cost nothing and
    tell nothing, however long they go on, so what a copied passage brings is still known when the next one comes.
    Larger trees than the best are tried as often as ``waste`` of the time allows, so that a drafter that warms up, or a
    change of text, is noticed.
    """

    def __init__(self, decay: float = 0.95, waste: float = 0.03) -> None:
        self._decay = decay
        self._waste = waste
        self._sizes = np.array(SIZES)
        self._accepted = 1 + 0.5 * np.log2(self._sizes)  # hopeful: a cold drafter deserves a chance
        self._used = self._sizes.astype(float)
        """Nodes that the drafter gives when asked for each size, where it gives any."""
        self._share = 1.0
        """Steps in which it gives any, of those in which it is asked."""
        self._seen = np.full(len(SIZES), 4.0)
        """Verdicts that each average rests on; the prior counts as a few."""
        self._purse = 0.0
        """Milliseconds saved up for trying larger trees."""

    def nodes(self, view: StepView) -> int:
        return self._choose(view.step_cost.hopeful(np.round(self._used).astype(int).tolist()))

    def _choose(self, costs: NDArray[np.float64]) -> int:
        share = max(self._share, 0.01)
        accepted = share * np.maximum.accumulate(self._accepted) + 1 - share
        costs = share * costs + (1 - share) * costs[0]
        best = int(np.argmax(accepted / costs))
        larger = min(i for i, size in enumerate(SIZES) if size >= 2 * SIZES[best] or size == SIZES[-1])
        trial = max(larger, SIZES.index(8))  # from plain decoding, two nodes would show next to nothing
        self._purse += self._waste * costs[best]
        extra = costs[trial] - costs[best]
        if trial > best and self._purse >= extra:
            self._purse = 0.0
            return SIZES[trial]
        return SIZES[best]

    def observe(self, view: StepView, verdict: Verdict, stats: StepStats) -> None:
        host = verdict.host
        assert host is not None
        rows, asked = np.flatnonzero(view.active), stats.budget
        width = int(host.count[rows].max())
        if asked > 1:
            self._share += (1 - self._decay) * ((width > 1) - self._share)
        if width == 1:
            return
        # what a larger budget adds is unknown when the tree was full; a tree that was not full is all there is
        known = self._sizes <= asked if width >= asked else self._sizes > 0
        reached = np.mean([(host.path[row, : host.length[row], None] < self._sizes).sum(0) for row in rows], axis=0)
        self._seen[known] += 1
        step = np.maximum(1 / self._seen, 1 - self._decay)
        self._accepted[known] += (step * (reached - self._accepted))[known]
        self._used[known] += (step * (np.minimum(self._sizes, width) - self._used))[known]
