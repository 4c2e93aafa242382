"""Drafters that do not inherit from :class:`racer.Drafter`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from racer.errors import PluginError
from racer.step.draft_tree import DraftTree
from racer.step.request import Request
from racer.step.verdict import Verdict
from racer.step.view import Needs, StepView
from racer.strategies.base import Drafter


def as_drafter(thing: object) -> Drafter:
    """Drafters as they are; any other object with ``draft`` and ``observe`` as one.

    What else it has of a drafter is used too; what it has not does what a drafter's does by default.

    :raises PluginError: it lacks one of the two, or has something of another type under a drafter's name.
    """
    return thing if isinstance(thing, Drafter) else DuckDrafter(thing)


class DuckDrafter(Drafter):
    """Passes everything on to an object that drafts; see :func:`as_drafter`."""

    def __init__(self, duck: Any) -> None:
        self.duck = duck
        who = type(duck).__name__
        for name in ("draft", "observe"):
            if isinstance(duck, type) or not callable(getattr(duck, name, None)):
                raise PluginError(f"a drafter is an object with draft and observe; {who} has no {name}")
        for name in ("opened", "closed", "save", "load"):
            if not callable(getattr(duck, name, print)):
                raise PluginError(f"{name} of drafter {who} is {getattr(duck, name)!r}, expected a method")
        self.name = self._typed("label", str, "") or self._typed("name", str, "") or who
        self.needs = self._typed("needs", Needs, Needs())
        self.drafts = self._typed("drafts", bool, True)
        self.drafts_chains = self._typed("drafts_chains", bool, False)
        self.saves = self._typed("saves", bool, hasattr(duck, "save") and hasattr(duck, "load"))

    def _typed(self, name: str, kind: type[Any], default: Any) -> Any:
        found = getattr(self.duck, name, default)
        if not isinstance(found, kind):
            who = type(self.duck).__name__
            raise PluginError(f"{name} of drafter {who} is {found!r}, expected a {kind.__name__}")
        return found

    def opened(self, request: Request) -> None:
        if hasattr(self.duck, "opened"):
            self.duck.opened(request)

    def draft(self, view: StepView, budget: int) -> DraftTree | None:
        tree: DraftTree | None = self.duck.draft(view, budget)
        return tree

    def observe(self, view: StepView, tree: DraftTree, verdict: Verdict) -> None:
        self.duck.observe(view, tree, verdict)

    def closed(self, request: Request) -> None:
        if hasattr(self.duck, "closed"):
            self.duck.closed(request)

    def save(self, path: str | Path, fingerprint: str) -> None:
        if hasattr(self.duck, "save"):
            self.duck.save(path, fingerprint)
        else:
            super().save(path, fingerprint)

    def load(self, path: str | Path, fingerprint: str) -> None:
        if hasattr(self.duck, "load"):
            self.duck.load(path, fingerprint)
        else:
            super().load(path, fingerprint)
