"""The configured strategies, as hooks: they answer last, so that plugins can intercept."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from torch import Tensor

from racer.guard import check_form
from racer.hookspecs import hookimpl
from racer.step.best_path import best_path, width_before
from racer.step.draft_tree import DraftTree
from racer.step.verdict import Verdict
from racer.step.view import StepView
from racer.verifiers.base import Verifier

if TYPE_CHECKING:
    from racer.engine.strategy_set import StrategySet


class ConfiguredStrategies:
    """What a plugin manager, which is in circles of its own, holds of a strategy set: nothing that would keep it.

    What drafters learned must go with the set, not with the next garbage collection.
    """

    def __init__(self, strategies: StrategySet) -> None:
        self._strategies = weakref.ref(strategies)

    @property
    def _set(self) -> StrategySet:
        strategies = self._strategies()
        assert strategies is not None  # it calls these hooks itself
        return strategies

    @hookimpl(trylast=True)
    def racer_budget(self, view: StepView) -> int:
        return self._set.budget.nodes(view)

    @hookimpl(trylast=True)
    def racer_draft(self, view: StepView, budget: int) -> DraftTree | None:
        strategies = self._set
        asked = width_before(view, strategies.drafter.drafts_chains, budget)
        tree: DraftTree | None = strategies.guard.attempt(strategies.drafter.draft, view, asked)
        if tree is None:
            return None
        tree = check_form(tree, len(view.requests), asked)
        return strategies.budget.fit(view, best_path(tree, budget) if view.chain else tree, budget)

    @hookimpl(trylast=True)
    def racer_verify(self, view: StepView, tree: DraftTree, logits: Tensor) -> Verdict:
        verdict: Verdict = view.verifier.verify(view, tree, logits)
        return verdict


class RememberingVerifier(Verifier):
    """The configured verifier as plugins around it reach it: what it said, or that it failed, is not forgotten.

    So nobody else is blamed for its errors, and it need not be asked again over the same prefixes if a plugin fails
    afterwards: logits processors may have a memory. About the step's own tree it is asked with the loop's own view and
    tree, whatever a plugin has written into those that it was shown.
    """

    def __init__(self, view: StepView, tree: DraftTree) -> None:
        self._view, self._tree, self._verifier = view, tree, view.verifier
        self.exact, self.samples = self._verifier.exact, self._verifier.samples
        self.shown = tree.copy()
        """The tree that plugins are shown."""
        self.error: BaseException | None = None
        self.verdict: Verdict | None = None

    def verify(self, view: StepView, tree: DraftTree, logits: Tensor) -> Verdict:
        if self.error is not None:
            raise self.error
        try:
            if tree is self.shown:
                view, tree = self._view, self._tree
            self.verdict = as_verdict(self._verifier.verify(view, tree, logits))
        except BaseException as error:
            self.error = error
            raise
        return self.verdict


def as_verdict(verdict: object) -> Verdict:
    """``verdict`` itself.

    :raises TypeError: it is none.
    """
    if not isinstance(verdict, Verdict):
        raise TypeError(f"its verdict is a {type(verdict).__name__}")
    return verdict
