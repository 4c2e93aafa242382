"""Who plays: the drafter, verifier and budget of one decoder, and the plugins around them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import attrs
import torch
from pluggy import HookImpl
from torch import Tensor

from racer.budgets.adapt import as_budget
from racer.budgets.base import Budget, Fixed
from racer.config import MAX_BUDGET, Choice, DecodeConfig
from racer.discovery import new_manager, plugins
from racer.engine.configured import ConfiguredStrategies, RememberingVerifier, as_verdict
from racer.errors import ConfigError, PluginError, of_the_plugin, told
from racer.guard import Guard, WarnOnce, attempt, check_form, fault_text
from racer.step.draft_tree import DraftTree
from racer.step.request import Request
from racer.step.stats import DecodeStats, StepStats
from racer.step.verdict import Verdict
from racer.step.view import Needs, StepView
from racer.strategies.adapt import as_drafter
from racer.strategies.device import DeviceDrafter, DraftProgram
from racer.verifiers.base import Verifier, as_verifier

Intake = Callable[[StepView, DraftTree | None], tuple[DraftTree, Tensor]]
"""Brings a drafter's tree (None: the roots alone) to where it is scored, faulty rows cut back to their roots; gives it
with its faults ``[B]``, unread."""


class StrategySet:
    """Resolves a configuration's names and puts everybody behind the hooks of one plugin manager.

    Where the first answer counts, the configured strategies answer last, so that plugins can intercept; where all are
    told, they are told first, and a failing plugin cannot keep them from it.

    :raises UnknownStrategy: a name that nobody registered.
    :raises PluginError: a plugin of the configuration misspells a hook, or a registered strategy cannot be made.
    """

    def __init__(self, config: DecodeConfig) -> None:
        self.warn_once = WarnOnce()
        self.drafter = as_drafter(plugins.make("drafter", config.drafter))
        budget = config.budget
        self.budget = Fixed(budget) if isinstance(budget, int) else as_budget(plugins.make("budget", budget))
        self._verifier = config.verifier
        self._verifiers: dict[str, Verifier] = {}
        self.guard = Guard(self.drafter, self.warn_once)
        self._manager = new_manager()
        try:
            for plugin in (*config.plugins, ConfiguredStrategies(self)):
                self._manager.register(plugin)
            self._manager.check_pending()
        except BaseException as error:
            if not of_the_plugin(error):
                raise
            raise PluginError(f"a plugin of the configuration is refused: {told(error)}") from error
        if self._manager.hook.racer_register.get_hookimpls():
            raise PluginError(
                "a plugin of the configuration has racer_register, which is only called on entry points: use "
                "racer.discovery.plugins.register(plugin, origin), or name the object itself as drafter or verifier"
            )
        wanted = [getattr(plugin, "needs", None) for plugin in config.plugins]
        self.needs = self.guard.needs
        for needs in wanted:
            self.needs |= needs if isinstance(needs, Needs) else Needs(host=False)

    @property
    def drafter_name(self) -> str:
        return self.guard.label

    @property
    def drafts(self) -> bool:
        """Whether anybody may guess."""
        return self.drafter.drafts or len(self._manager.hook.racer_draft.get_hookimpls()) > 1

    def verifier_for(self, do_sample: bool) -> tuple[Verifier, str]:
        """Who verifies a call, and its name. Nothing is kept: other calls may be running.

        :raises ConfigError: the configured verifier contradicts ``do_sample``.
        """
        choice: Any = self._verifier
        if choice == "auto":
            choice = "sampling" if do_sample else "greedy"
        if isinstance(choice, (str, Choice)):
            name = choice if isinstance(choice, str) else choice.name
        else:
            name = type(choice).__name__.lower()
        if name not in self._verifiers:
            self._verifiers[name] = as_verifier(plugins.make("verifier", choice))
        verifier = self._verifiers[name]
        if verifier.samples is not None and verifier.samples != do_sample:
            mend = "leave the verifier to 'auto'"
            raise ConfigError(
                f"verifier {name!r} decodes greedily, but do_sample=True: {mend}"
                if do_sample
                else f"verifier {name!r} samples, but do_sample=False: pass do_sample=True, or {mend}"
            )
        return verifier, name

    # -- asking: the first answer counts, and no plugin's failure gets through ---------------------------------------

    def nodes(self, view: StepView) -> int:
        """The budget of this step; 1 if nobody gives a sensible one, or no more than one token is wanted."""
        most = max((r.budget or MAX_BUDGET for r, on in zip(view.requests, view.active, strict=True) if on), default=1)
        if view.remaining <= 1 or most <= 1:
            return 1

        def answer() -> int:
            nodes = self._manager.hook.racer_budget(view=view.shown)
            if not isinstance(nodes, int) or nodes < 1:
                raise ValueError(f"its budget is {nodes!r}, expected a whole number from 1")
            return nodes

        return min(self._attempt("a plugin's racer_budget", answer) or 1, most)

    def draft(self, view: StepView, budget: int, intake: Intake) -> tuple[DraftTree, Tensor]:
        """A sound tree where it is scored, and what was wrong with it ``[B]``, unread."""

        def answer() -> tuple[DraftTree, Tensor] | None:
            tree = self._manager.hook.racer_draft(view=view.shown, budget=budget)
            return None if tree is None else intake(view, _limited(check_form(tree, len(view.requests), budget), view))

        culprit = f"drafter {self.drafter_name!r} (or a plugin's racer_draft)"
        drafted: tuple[DraftTree, Tensor] | None = self._attempt(culprit, answer) if budget > 1 else None
        return intake(view, None) if drafted is None else drafted

    def program(self, view: StepView) -> DraftProgram | None:
        """What of the drafter lives on the model's device, if nobody is to see or change what it drafts before it is
        scored: no plugin, no budget, and no method of its own."""
        drafter = self.drafter
        if not isinstance(drafter, DeviceDrafter) or len(self._manager.hook.racer_draft.get_hookimpls()) > 1:
            return None
        looks = type(self.budget).fit is not Budget.fit and not self.budget.fits_unseen
        own = (type(drafter).draft, type(drafter).observe) != (DeviceDrafter.draft, DeviceDrafter.observe)
        if looks or own:
            return None
        found: DraftProgram | None = self.guard.attempt(drafter.program, view.shown)
        return found

    def width_of_unseen(self, view: StepView, tree: DraftTree, nodes: int) -> int:
        """The columns that the budget leaves of a tree of ``nodes`` whose contents are yet to come."""
        fitted = self._attempt(
            "the budget", lambda: check_form(self.budget.fit(view.shown, tree, nodes), tree.batch, nodes)
        )
        return tree.width if fitted is None else int(fitted.width)

    @property
    def verifies_alone(self) -> bool:
        """Whether no plugin stands around the verifier, to see or change its verdict."""
        return len(self._manager.hook.racer_verify.get_hookimpls()) == 1

    def verify(self, view: StepView, tree: DraftTree, logits: Tensor, argmax: Tensor | None = None) -> Verdict:
        """The verdict. If a plugin around the verifier fails, the verifier's own stands; its errors are raised.

        :param argmax: ``[B, N]`` of each node's logits, if it is known.
        """
        if not self.verifies_alone:
            return self._verify_among_plugins(view, tree, logits)
        if argmax is not None and view.verifier.needs_only_argmax(view):
            return as_verdict(view.verifier.verify_targets(tree, argmax))
        return as_verdict(view.verifier.verify(view, tree, logits))

    def _verify_among_plugins(self, view: StepView, tree: DraftTree, logits: Tensor) -> Verdict:
        own = RememberingVerifier(view, tree)

        def complain(reason: BaseException | str) -> None:
            if own.error is None:
                self.warn_once.about("a plugin's racer_verify", reason)

        def answer() -> Verdict:
            shown = attrs.evolve(view.shown, verifier=own)
            return as_verdict(self._manager.hook.racer_verify(view=shown, tree=own.shown, logits=logits))

        verdict: Verdict | None = attempt(complain, answer)
        if own.error is not None and verdict is None:
            raise own.error
        return verdict or own.verdict or own.verify(view, tree, logits)

    # -- telling: everybody, each by itself ---------------------------------------------------------------------------

    def request_opened(self, request: Request) -> None:
        """A row starts."""
        self.guard.opened(request)
        self._tell("racer_request_opened", request=request)

    def request_closed(self, request: Request, stats: DecodeStats) -> None:
        """A row has ended or failed."""
        self.guard.closed(request)
        self._attempt("the budget", self.budget.closed, request)
        self._tell("racer_request_closed", request=request, stats=stats)

    def step_over(
        self, view: StepView, tree: DraftTree, verdict: Verdict, stats: StepStats, *, learned: bool = False
    ) -> None:
        """A step is over, or a piece of prompt is scored: everybody observes.

        :param learned: whether the drafter has observed it already.
        """
        shown = view.shown  # what of it is written into, or into the tree and the verdict, is never read back
        assert verdict.host is not None
        if bits := next(
            (int(bits) for bits, on in zip(verdict.host.faults, view.active, strict=True) if bits and on), 0
        ):
            self.warn_once.about(f"drafter {self.drafter_name!r}", fault_text(bits))
        if not learned:
            self.guard.observe(shown, tree, verdict)
        if stats.nodes:  # a step, not a piece of prompt
            self._attempt("the budget", self.budget.observe, shown, verdict, stats)
        self._tell("racer_step", view=shown, tree=tree, verdict=verdict, stats=stats)

    def _tell(self, hook: str, **news: Any) -> None:
        """Call a hook that everybody hears; one that fails does not keep it from the others."""
        for heard in reversed(getattr(self._manager.hook, hook).get_hookimpls()):
            self._attempt(f"{hook} of {type(heard.plugin).__name__}", _hear, heard, news)

    def _attempt(self, culprit: str, call: Callable[..., Any], *args: Any) -> Any:
        return attempt(partial(self.warn_once.about, culprit), call, *args)


def _limited(tree: DraftTree, view: StepView) -> DraftTree:
    """A draft in which no row has more nodes than its request may have."""
    if all(request.budget is None for request in view.requests):
        return tree
    most = torch.tensor([request.budget or MAX_BUDGET for request in view.requests], device=tree.count.device)
    return attrs.evolve(tree, count=torch.minimum(tree.count, most)).head(int(most.max()))


def _hear(hook: HookImpl, news: dict[str, Any]) -> None:
    if hook.wrapper or hook.hookwrapper:
        raise TypeError("it is a wrapper, and there is no answer to wrap: make it a plain hook")
    hook.function(*(news[name] for name in hook.argnames))
