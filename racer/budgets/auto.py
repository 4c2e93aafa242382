"""The budget that finds out by itself how many nodes pay."""

from __future__ import annotations

from racer.budgets.base import Budget
from racer.budgets.by_record import ByRecord
from racer.budgets.by_score import ByScore
from racer.hookspecs import hookimpl
from racer.registry import Registry
from racer.step.draft_tree import DraftTree
from racer.step.request import Request
from racer.step.stats import StepStats
from racer.step.verdict import Verdict
from racer.step.view import StepView


class Auto(Budget):
    """Spends what pays, by the tree's scores (:class:`ByScore`) or else by the record (:class:`ByRecord`).

    What steps cost is learned from the steps themselves. Sizes that were not taken yet are tried where they might pay
    (:meth:`racer.step.cost_curve.CostCurve.hopeful`), from a plain step upwards.
    """

    fits_unseen = True

    def __init__(self) -> None:
        self._by_score, self._by_record = ByScore(), ByRecord()
        self._scored = True
        """Whether the drafter's last tree had scores that can be read."""
        self._asked = 0

    @property
    def _judge(self) -> ByScore | ByRecord:
        return self._by_score if self._scored else self._by_record

    def nodes(self, view: StepView) -> int:
        self._asked = self._judge.nodes(view)
        return self._asked

    def fit(self, view: StepView, tree: DraftTree, nodes: int) -> DraftTree:
        # on an accelerator, reading scores would synchronise
        scored = tree.score is not None and tree.score.device.type == "cpu"
        if self._scored and not scored:
            self._scored, self._asked = scored, 0  # nobody learns from a tree that the other judge has asked for
            return tree.head(self._judge.nodes(view))
        self._scored = scored
        return self._judge.fit(view, tree, nodes)

    def observe(self, view: StepView, verdict: Verdict, stats: StepStats) -> None:
        if verdict.host is None or not any(view.active):
            return
        # Where somebody else said how many nodes, a tree's size tells nothing about the drafter, and its scores still
        # do; but a last token that needs no tree tells nothing at all.
        if stats.budget == self._asked or (self._scored and stats.budget > 1):
            self._judge.observe(view, verdict, stats)

    def closed(self, request: Request) -> None:
        self._by_score.closed(request)


@hookimpl
def racer_register(registry: Registry) -> None:
    registry.budget("auto", Auto, summary="the size with most accepted tokens per measured millisecond")
