"""Budgets that do not inherit from :class:`racer.Budget`."""

from __future__ import annotations

from typing import Any

from racer.budgets.base import Budget
from racer.errors import PluginError
from racer.step.draft_tree import DraftTree
from racer.step.view import StepView


def as_budget(thing: object) -> Budget:
    """Budgets as they are; any other object with ``nodes`` as one.

    ``fit``, ``observe`` and ``closed`` are used too, where it has them.

    :raises PluginError: it has no ``nodes``, or something under these names that cannot be called.
    """
    return thing if isinstance(thing, Budget) else DuckBudget(thing)


class DuckBudget(Budget):
    """Passes everything on to an object that says how many nodes; see :func:`as_budget`."""

    def __init__(self, duck: Any) -> None:
        self.duck = duck
        who = type(duck).__name__
        if isinstance(duck, type) or not callable(getattr(duck, "nodes", None)):
            raise PluginError(f"a budget is an object with nodes; {who} has none")
        for name in ("fit", "observe", "closed"):
            if not callable(getattr(duck, name, print)):
                raise PluginError(f"{name} of budget {who} is {getattr(duck, name)!r}, expected a method")
        # one that does not fit trees leaves them as they are, whatever they hold
        self.fits_unseen = not hasattr(duck, "fit") or getattr(duck, "fits_unseen", False) is True

    def nodes(self, view: StepView) -> int:
        nodes: int = self.duck.nodes(view)
        return nodes

    def fit(self, *args: Any, **named: Any) -> DraftTree:
        tree: DraftTree = self._call("fit", *args, **named)
        return tree

    def observe(self, *args: Any, **named: Any) -> None:
        self._call("observe", *args, **named)

    def closed(self, *args: Any, **named: Any) -> None:
        self._call("closed", *args, **named)

    def _call(self, method: str, *args: Any, **named: Any) -> Any:
        """The object's own method, or what a budget does by default."""
        return getattr(self.duck if hasattr(self.duck, method) else super(), method)(*args, **named)
