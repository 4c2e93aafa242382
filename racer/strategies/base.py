"""What a drafter is."""

from __future__ import annotations

from pathlib import Path

from racer.errors import StateError
from racer.step.draft_tree import DraftTree
from racer.step.request import Request
from racer.step.tree_builder import TreeBuilder, stack
from racer.step.verdict import Verdict
from racer.step.view import Needs, StepView


class Drafter:
    """Guesses trees of future tokens. Whatever it guesses, the output stays that of plain decoding.

    Either override :meth:`grow` (one row at a time, on the host: the easy way) or :meth:`draft` (the whole batch,
    any device). State that helps later requests may live on the object; it should have constant size.
    """

    name: str = ""
    """How statistics and warnings call it; the class name if empty."""
    drafts: bool = True
    """Whether it ever guesses anything."""
    needs: Needs = Needs()
    """What it wants to observe of the scored nodes."""
    drafts_chains: bool = False
    """Whether it drafts a chain where ``view.chain`` asks for one; else the best path of its tree is taken."""
    saves: bool = False
    """Whether it has :meth:`save` and :meth:`load`, so that ``racer generate --state`` may use it."""

    @property
    def label(self) -> str:
        return self.name or type(self).__name__

    def opened(self, request: Request) -> None:
        """A row starts. Keep what you need under ``request.id``."""

    def grow(self, request: Request, tree: TreeBuilder) -> None:
        """Add nodes below the root (node 0, ``request.tokens[-1]``) until the tree is full or you know no more."""
        raise NotImplementedError(f"{self.label} must define grow (one row) or draft (the batch)")

    def draft(self, view: StepView, budget: int) -> DraftTree | None:
        """One tree a row, at most ``budget`` nodes each; None means a one-node tree."""
        builders = [TreeBuilder(request.tokens[-1], budget) for request in view.requests]
        for request, builder, active in zip(view.requests, builders, view.active, strict=True):
            if active:
                self.grow(request, builder)
        return stack(builders, self.label)

    def observe(self, view: StepView, tree: DraftTree, verdict: Verdict) -> None:
        """Learn from a scored tree, or from a scored piece of the prompt (a chain that is all accepted).

        ``view`` is the state before the step, except that ``request.tokens`` already hold what was emitted.
        """

    def closed(self, request: Request) -> None:
        """A row has ended: drop what you keep under ``request.id``."""

    def save(self, path: str | Path, fingerprint: str) -> None:
        """Write what was learned across requests to a file, where ``saves`` says so.

        :param fingerprint: names the model and tokenizer whose tokens these are; :meth:`load` refuses any other's.
        :raises StateError: it keeps no state.
        :raises OSError: the file cannot be written; one that was there before is then still whole.
        """
        raise StateError(f"drafter {self.label!r} keeps no state that could be saved")

    def load(self, path: str | Path, fingerprint: str) -> None:
        """Take over what :meth:`save` wrote.

        :raises StateError: it keeps no state, or the file is damaged, of another fingerprint, version or size; what is
            known is then as it was.
        :raises OSError: the file cannot be read.
        """
        raise StateError(f"drafter {self.label!r} keeps no state that could be loaded")
