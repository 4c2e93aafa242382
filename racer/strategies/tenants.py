"""A drafter for each tenant, so that nothing of one tenant's text shows in what is drafted to another."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from racer.step.draft_tree import DraftTree
from racer.step.request import Request
from racer.step.verdict import Verdict
from racer.step.view import StepView
from racer.strategies.base import Drafter

MOST = 8
"""Tenants whose drafters are kept; those of open requests are kept in any case."""


class PerTenant(Drafter):
    """Asks for each row the drafter of its request's tenant (:attr:`racer.step.request.Request.tenant`).

    Each tenant's memory is that of one such drafter. Of tenants without open requests the least recently used ones are
    forgotten when there are more than :data:`MOST`.

    :param make: gives a new drafter, which knows nothing.
    """

    def __init__(self, make: Callable[[], Drafter]) -> None:
        self._make = make
        self._drafters: OrderedDict[Hashable, Drafter] = OrderedDict({None: make()})
        self._open: dict[int, Hashable] = {}
        first = self._drafters[None]
        self.name, self.drafts, self.needs = first.label, first.drafts, first.needs
        self.drafts_chains = first.drafts_chains

    def opened(self, request: Request) -> None:
        tenant = request.tenant
        if tenant not in self._drafters:
            self._drafters[tenant] = self._make()
        self._drafters.move_to_end(tenant)
        self._open[request.id] = tenant
        self._drafters[tenant].opened(request)
        self._forget_some()

    def draft(self, view: StepView, budget: int) -> DraftTree | None:
        groups = self._groups(view)
        if len(groups) == 1:
            return self._drafters[next(iter(groups))].draft(view, budget)
        trees = {t: self._drafters[t].draft(view.of_rows(rows), budget) for t, rows in groups.items()}
        return _together(view, [(groups[tenant], tree) for tenant, tree in trees.items() if tree is not None])

    def observe(self, view: StepView, tree: DraftTree, verdict: Verdict) -> None:
        groups = self._groups(view)
        for tenant, rows in groups.items():
            one = len(groups) == 1
            shown = (view, tree, verdict) if one else (view.of_rows(rows), tree.of_rows(rows), verdict.of_rows(rows))
            self._drafters[tenant].observe(*shown)

    def closed(self, request: Request) -> None:
        tenant = self._open.pop(request.id, request.tenant)
        if tenant in self._drafters:
            self._drafters[tenant].closed(request)
        self._forget_some()

    def _groups(self, view: StepView) -> dict[Hashable, list[int]]:
        """Rows by tenant."""
        groups: dict[Hashable, list[int]] = {}
        for row, request in enumerate(view.requests):
            groups.setdefault(request.tenant, []).append(row)
        return groups

    def _forget_some(self) -> None:
        idle = [tenant for tenant in self._drafters if tenant is not None and tenant not in self._open.values()]
        for tenant in idle[: max(len(self._drafters) - MOST, 0)]:
            del self._drafters[tenant]


def _together(view: StepView, parts: Sequence[tuple[list[int], DraftTree]]) -> DraftTree | None:
    """Trees of some rows each as trees of all rows; rows of which nobody gave one have their roots alone."""
    if not parts:
        return None
    device = parts[0][1].tokens.device
    batch, width = len(view.requests), max(tree.width for _, tree in parts)
    tokens = torch.zeros(batch, width, dtype=torch.int64, device=device)
    tokens[:, 0] = torch.tensor([request.tokens[-1] for request in view.requests], device=device)
    parent, source = torch.zeros_like(tokens), torch.zeros_like(tokens)
    count = torch.ones(batch, dtype=torch.int64, device=device)
    score = torch.zeros(batch, width, dtype=torch.float64, device=device)
    names: list[str] = []

    def put(whole: Tensor, rows: list[int], part: Tensor) -> None:
        whole[rows] = pad(part, (0, width - part.shape[1])).to(whole.dtype)

    for rows, tree in parts:
        put(tokens, rows, tree.tokens)
        put(parent, rows, tree.parent)
        if tree.source is not None:
            put(source, rows, tree.source + len(names))
        else:
            source[rows] = len(names)
        if tree.score is not None:
            put(score, rows, tree.score)
        count[rows] = tree.count
        names += tree.sources or ("",)
    scored = all(tree.score is not None for _, tree in parts)
    return DraftTree(tokens, parent, count, score if scored else None, source, tuple(names))
