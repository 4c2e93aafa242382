"""Several drafters, one tree."""

from __future__ import annotations

from functools import reduce

import attrs

from racer.errors import ConfigError
from racer.guard import Guard
from racer.step.draft_tree import DraftTree
from racer.step.request import Request
from racer.step.verdict import Verdict
from racer.step.view import Needs, StepView
from racer.strategies.adapt import as_drafter
from racer.strategies.base import Drafter


class Merge(Drafter):
    """The union of its parts' trees as one trie; a node that two propose is paid for once.

    ``policy="fill"``: the first part takes what it wants of the budget, the next ones fill what is left. A part that
    fails is left out of the step (and named in a warning), the others go on.

    :raises ConfigError: no parts, or an unknown policy.
    """

    def __init__(self, *parts: Drafter, policy: str = "fill", name: str = "") -> None:
        if not parts:
            raise ConfigError("Merge needs at least one drafter")
        if policy != "fill":
            raise ConfigError(f"unknown merge policy {policy!r}; there is 'fill'")
        self.parts = [Guard(as_drafter(part)) for part in parts]
        self.name = name or "+".join(part.label for part in self.parts)
        self.drafts = any(part.drafter.drafts for part in self.parts)
        self.needs = reduce(lambda a, b: a | b, (part.needs for part in self.parts), Needs(host=False))

    def opened(self, request: Request) -> None:
        for part in self.parts:
            part.opened(request)

    def draft(self, view: StepView, budget: int) -> DraftTree | None:
        trees = ((part, part.draft(view, budget)) for part in self.parts)
        found = [
            tree if tree.sources else attrs.evolve(tree, source=None, sources=(part.label,))
            for part, tree in trees
            if tree is not None
        ]
        return reduce(lambda a, b: a.union(b.to(a.tokens.device)).head(budget), found) if found else None

    def observe(self, view: StepView, tree: DraftTree, verdict: Verdict) -> None:
        for part in self.parts:
            part.observe(view, tree, verdict)

    def closed(self, request: Request) -> None:
        for part in self.parts:
            part.closed(request)
