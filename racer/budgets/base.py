"""What a budget is, and one that is always the same."""

from __future__ import annotations

from racer.step.draft_tree import DraftTree
from racer.step.request import Request
from racer.step.stats import StepStats
from racer.step.verdict import Verdict
from racer.step.view import StepView

SIZES = (1, 2, 4, 6, 8, 12, 16, 20, 24, 32, 40, 48, 64)
"""Sizes that ``auto`` chooses from."""


class Budget:
    """Says how many nodes a step may score."""

    fits_unseen: bool = False
    """Whether :meth:`fit`, where it is defined anew, looks at nothing but the shape of a tree without scores: then a
    drafter on the device may draft such trees after it was asked."""

    def nodes(self, view: StepView) -> int:
        """At least 1 (plain decoding), the root included."""
        raise NotImplementedError

    def fit(self, view: StepView, tree: DraftTree, nodes: int) -> DraftTree:
        """Cut the drafted trees to what pays; a node's children may not stay without it.

        :param nodes: how many were asked for: what :meth:`nodes` said, unless a plugin or the text's end said less.
        """
        return tree

    def observe(self, view: StepView, verdict: Verdict, stats: StepStats) -> None:
        """Learn from a step; ``verdict.host`` is there, and ``stats.budget`` says how many nodes were asked for."""

    def closed(self, request: Request) -> None:
        """Forget a request that has ended."""


class Fixed(Budget):
    """Always the same."""

    def __init__(self, nodes: int) -> None:
        self._nodes = nodes

    def nodes(self, view: StepView) -> int:
        return self._nodes
