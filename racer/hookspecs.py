"""Every hook, on one page. ``docs/hooks.md`` shows each at work.

A plugin marks its functions with :data:`hookimpl`. The drafter, verifier and budget that a configuration names are
called last (``trylast``), so any other plugin may answer first, or wrap them (``@hookimpl(wrapper=True)``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from torch import Tensor

    from racer.registry import Registry
    from racer.step.draft_tree import DraftTree
    from racer.step.request import Request
    from racer.step.stats import DecodeStats, StepStats
    from racer.step.verdict import Verdict
    from racer.step.view import StepView

hookspec = pluggy.HookspecMarker("racer")
hookimpl = pluggy.HookimplMarker("racer")


@hookspec(historic=True)
def racer_register(registry: Registry) -> None:
    """Register drafters, verifiers and budgets by name. Called once, when the plugin is loaded."""


@hookspec
def racer_request_opened(request: Request) -> None:
    """A row starts: its prompt is known, nothing is scored yet."""


@hookspec
def racer_request_closed(request: Request, stats: DecodeStats) -> None:
    """A row has ended or failed: drop what you keep under ``request.id``."""


@hookspec(firstresult=True)
def racer_budget(view: StepView) -> int | None:
    """How many nodes this step may score, the root included; 1 is plain decoding. The first answer counts."""


@hookspec(firstresult=True)
def racer_draft(view: StepView, budget: int) -> DraftTree | None:
    """Guess at most ``budget`` nodes a row, ``view.root`` included; None means one node. The first answer counts."""


@hookspec(firstresult=True)
def racer_verify(view: StepView, tree: DraftTree, logits: Tensor) -> Verdict:  # type: ignore[empty-body]
    """Choose path and next token by ``logits [B, N, V]``, without host synchronisation. The first answer counts."""


@hookspec
def racer_step(view: StepView, tree: DraftTree, verdict: Verdict, stats: StepStats) -> None:
    """A step is over (or a piece of prompt is scored, as a chain that is all accepted): observe and learn."""
