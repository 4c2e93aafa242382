"""Who plays: the drafter, verifier and budget of one decoder, and the plugins around them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from racer.budgets import Budget, Fixed
from racer.config import MAX_BUDGET, DecodeConfig
from racer.discovery import new_manager, plugins
from racer.errors import ConfigError, PluginError, RacerError
from racer.guard import Guard, WarnOnce, check_form
from racer.hookspecs import hookimpl
from racer.step.draft_tree import DraftTree
from racer.step.request import Needs, Request, StepStats, StepView
from racer.step.stats import DecodeStats
from racer.step.verdict import Verdict
from racer.strategies.device import DeviceDrafter, DraftProgram
from racer.strategies.none import NoDraft

Take = Callable[[StepView, DraftTree | None], tuple[DraftTree, Tensor]]
"""Brings a drafter's tree (None: the roots alone) to the model's device, where faulty rows are cut back to their roots;
gives it with its faults ``[B]``, unread."""


def take(view: StepView, tree: DraftTree | None) -> tuple[DraftTree, Tensor]:
    """A :data:`Take` for trees of any width."""
    if tree is None:
        return DraftTree.root(view.root), torch.zeros_like(view.root)
    tree = tree.to(view.device)
    faults = tree.faults(view.root, view.vocab_size)
    return tree.sound(faults, view.root), faults


class StrategySet:
    """Resolves a configuration's names and puts everybody behind the hooks of one plugin manager.

    Its own hook implementations are those of the configured strategies. They come last where the first answer counts,
    so that plugins can intercept, and first where all are told, so that a failing plugin cannot keep them from it.

    :raises UnknownStrategy: a name that nobody registered.
    :raises PluginError: a plugin of the configuration misspells a hook, or a registered strategy cannot be made.
    """

    def __init__(self, config: DecodeConfig) -> None:
        self.warn_once = WarnOnce()
        self.drafter: Any = _resolve("drafter", config.drafter)
        self.budget: Budget = (
            Fixed(config.budget) if isinstance(config.budget, int) else _resolve("budget", config.budget)
        )
        self._verifier_choice = config.verifier
        self._verifiers: dict[str, Any] = {}
        self._guard = Guard(self.drafter, self.warn_once)
        self._manager = new_manager()
        try:
            for plugin in (*config.plugins, self):
                self._manager.register(plugin)
            self._manager.check_pending()
        except Exception as error:
            raise PluginError(f"a plugin of the configuration is refused: {error}") from error
        if self._manager.hook.racer_register.get_hookimpls():
            raise PluginError(
                "a plugin of the configuration has racer_register, which is only called on entry points: use "
                "racer.discovery.plugins.register(plugin, origin), or name the object itself as drafter or verifier"
            )
        wanted = [getattr(plugin, "needs", None) for plugin in config.plugins]
        self.needs = self._guard.needs
        for needs in wanted:
            self.needs |= needs if isinstance(needs, Needs) else Needs(host=False)

    @property
    def drafter_name(self) -> str:
        return self._guard.label

    @property
    def drafts(self) -> bool:
        """Whether anybody may guess."""
        return not isinstance(self.drafter, NoDraft) or len(self._manager.hook.racer_draft.get_hookimpls()) > 1

    def verifier_for(self, do_sample: bool) -> tuple[Any, str]:
        """Who verifies a call, and its name. Nothing is kept: other calls may be running.

        :raises ConfigError: the configured verifier contradicts ``do_sample``.
        """
        choice = self._verifier_choice
        if choice == "auto":
            choice = "sampling" if do_sample else "greedy"
        if isinstance(choice, str) and choice not in self._verifiers:
            self._verifiers[choice] = _resolve("verifier", choice)
        verifier = self._verifiers[choice] if isinstance(choice, str) else choice
        name = choice if isinstance(choice, str) else type(choice).__name__.lower()
        samples = getattr(verifier, "samples", None)
        if samples is not None and samples != do_sample:
            mend = "leave the verifier to 'auto'"
            raise ConfigError(
                f"verifier {name!r} decodes greedily, but do_sample=True: {mend}"
                if do_sample
                else f"verifier {name!r} samples, but do_sample=False: pass do_sample=True, or {mend}"
            )
        return verifier, name

    # -- asking and telling: no plugin's failure gets through -------------------------------------------------------

    def nodes(self, view: StepView) -> int:
        """The budget of this step; 1 if nobody gives a sensible one, or no more than one token is wanted."""
        nodes = 1
        if view.remaining > 1:
            try:
                nodes = self._manager.hook.racer_budget(view=view)
                if not isinstance(nodes, int) or nodes < 1:
                    raise ValueError(f"its budget is {nodes!r}, expected a whole number from 1")
            except Exception as error:
                self.warn_once.about("a plugin's racer_budget", error)
                nodes = 1
        view.settled.budget = min(nodes, MAX_BUDGET)
        return view.settled.budget

    def draft(self, view: StepView, budget: int, take: Take = take) -> tuple[DraftTree, Tensor]:
        """A sound tree on the model's device, and what was wrong with it ``[B]``, unread."""
        try:
            tree = self._manager.hook.racer_draft(view=view, budget=budget) if budget > 1 else None
            if tree is not None:
                return take(view, check_form(tree, len(view.requests), budget))
        except Exception as error:
            self.warn_once.about(f"drafter {self.drafter_name!r} (or a plugin's racer_draft)", error)
        return take(view, None)

    def program(self, view: StepView) -> DraftProgram | None:
        """What of the drafter lives on the model's device, if nobody is to see or change what it drafts before it is
        scored: no plugin, no budget, and no method of its own."""
        drafter = self.drafter
        if not isinstance(drafter, DeviceDrafter) or len(self._manager.hook.racer_draft.get_hookimpls()) > 1:
            return None
        fit = getattr(type(self.budget), "fit", Budget.fit)
        looks = fit is not Budget.fit and not getattr(self.budget, "fits_unseen", False)
        own = (type(drafter).draft, type(drafter).observe) != (DeviceDrafter.draft, DeviceDrafter.observe)
        if looks or own:
            return None
        found: DraftProgram | None = self._guard.attempt(drafter.program, view)
        return found

    def unseen(self, view: StepView, tree: DraftTree) -> int:
        """The nodes that are left of a tree whose contents are yet to come."""
        try:
            return self._fit(view, tree).width
        except Exception as error:
            self.warn_once.about("the budget", error)
            return tree.width

    def _fit(self, view: StepView, tree: DraftTree) -> DraftTree:
        return self.budget.fit(view, tree) if hasattr(self.budget, "fit") else tree

    @property
    def verifies_alone(self) -> bool:
        """Whether no plugin stands around the verifier, to see or change its verdict."""
        return len(self._manager.hook.racer_verify.get_hookimpls()) == 1

    def verify(self, view: StepView, tree: DraftTree, logits: Tensor) -> Verdict:
        """The verdict. If a plugin around the verifier fails, the verifier's own stands; its errors are raised."""
        if not self.verifies_alone:
            view.settled.best = None  # a plugin may change the logits before the verifier sees them
        try:
            verdict: Verdict = self._manager.hook.racer_verify(view=view, tree=tree, logits=logits)
            if not isinstance(verdict, Verdict):
                raise TypeError(f"its verdict is a {type(verdict).__name__}")
        except Exception as error:
            # never twice over the same prefixes: processors may have a memory
            own = view.settled.verdict
            verdict = self.racer_verify(view, tree, logits) if own is None else own
            self.warn_once.about("a plugin's racer_verify", error)
        return verdict

    def tell(self, hook: str, **news: Any) -> None:
        """Call a hook that everybody hears; one that fails does not keep it from the others."""
        for heard in reversed(getattr(self._manager.hook, hook).get_hookimpls()):
            try:
                if heard.wrapper or heard.hookwrapper:
                    raise TypeError("it is a wrapper, and there is no answer to wrap: make it a plain hook")
                heard.function(*(news[name] for name in heard.argnames))
            except Exception as error:
                self.warn_once.about(f"{hook} of {type(heard.plugin).__name__}", error)

    # -- the configured strategies, as hooks ------------------------------------------------------------------------

    @hookimpl(trylast=True)
    def racer_budget(self, view: StepView) -> int:
        return self.budget.nodes(view)

    @hookimpl(trylast=True)
    def racer_draft(self, view: StepView, budget: int) -> DraftTree | None:
        tree: DraftTree | None = self._guard.attempt(self.drafter.draft, view, budget)
        return None if tree is None else self._fit(view, check_form(tree, len(view.requests), budget))

    @hookimpl(trylast=True)
    def racer_verify(self, view: StepView, tree: DraftTree, logits: Tensor) -> Verdict:
        verdict: Verdict = view.settled.captured or view.settled.verifier.verify(view, tree, logits)
        view.settled.verdict = verdict
        return verdict

    @hookimpl(tryfirst=True)
    def racer_request_opened(self, request: Request) -> None:
        self._guard.opened(request)

    @hookimpl(tryfirst=True)
    def racer_request_closed(self, request: Request, stats: DecodeStats) -> None:
        self._guard.closed(request)
        if hasattr(self.budget, "closed"):
            self.budget.closed(request)

    @hookimpl(tryfirst=True)
    def racer_step(self, view: StepView, tree: DraftTree, verdict: Verdict, stats: StepStats) -> None:
        if not view.settled.joined:
            self._guard.observe(view, tree, verdict)
        if stats.nodes and hasattr(self.budget, "observe"):  # a step, not a piece of prompt
            self.budget.observe(view, verdict)


def _resolve(kind: str, choice: Any) -> Any:
    if not isinstance(choice, str):
        return choice
    offer = plugins.resolve(kind, choice)
    try:
        return offer.factory()
    except RacerError:
        raise
    except Exception as error:
        raise PluginError(f"{kind} {choice!r} of {offer.origin} cannot be made: {error}") from error
