"""Strategies that inherit from nothing: what they have is used, what they lack is what a strategy does by default."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from racer import Budget, DraftTree, Logits, Merge, Needs, NoDraft, Request, StateError
from racer.budgets import Fixed, as_budget
from racer.errors import PluginError
from racer.strategies.adapt import DuckDrafter, as_drafter

TREE = DraftTree.root(torch.zeros(1, dtype=torch.long))
VIEW: Any = object()
VERDICT: Any = object()
REQUEST = Request((1, 2))


class Least:
    """A drafter with the two methods that it needs."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def draft(self, view: Any, budget: int) -> Any:
        self.heard.append(("draft", view, budget))
        return TREE

    def observe(self, view: Any, tree: Any, verdict: Any) -> None:
        self.heard.append(("observe", view, tree, verdict))


class Most(Least):
    """A drafter with everything."""

    name, needs, saves = "most", Needs(top_k=3), True

    def opened(self, request: Request) -> None:
        self.heard.append(("opened", request))

    def closed(self, request: Request) -> None:
        self.heard.append(("closed", request))

    def save(self, path: Any, fingerprint: str) -> None:
        self.heard.append(("save", path, fingerprint))

    def load(self, path: Any, fingerprint: str) -> None:
        self.heard.append(("load", path, fingerprint))


def use(drafter: Any) -> None:
    drafter.opened(REQUEST)
    assert drafter.draft(VIEW, 4) is TREE
    drafter.observe(VIEW, TREE, VERDICT)
    drafter.closed(REQUEST)


def test_a_drafter_stays_as_it_is() -> None:
    drafter = Logits()
    assert as_drafter(drafter) is drafter


def test_draft_and_observe_are_enough(tmp_path: Path) -> None:
    duck = Least()
    drafter = as_drafter(duck)
    use(drafter)
    assert duck.heard == [("draft", VIEW, 4), ("observe", VIEW, TREE, VERDICT)]
    assert (drafter.label, drafter.needs, drafter.saves) == ("Least", Needs(), False)
    for method in (drafter.save, drafter.load):
        with pytest.raises(StateError, match="drafter 'Least' keeps no state"):
            method(tmp_path / "it", "print")
    assert not list(tmp_path.iterdir())


def test_everything_that_a_drafter_has_is_used(tmp_path: Path) -> None:
    duck = Most()
    drafter = as_drafter(duck)
    use(drafter)
    drafter.save(tmp_path, "print")
    drafter.load(tmp_path, "print")
    assert [what for what, *_ in duck.heard] == ["opened", "draft", "observe", "closed", "save", "load"]
    assert duck.heard[-1] == ("load", tmp_path, "print")
    assert (drafter.label, drafter.needs, drafter.saves) == ("most", Needs(top_k=3), True)


def test_labels_and_saving_are_told_from_what_there_is() -> None:
    assert as_drafter(type("It", (Least,), {"label": "shown", "name": "other"})()).label == "shown"
    assert as_drafter(type("It", (Least,), {"name": ""})()).label == "It"
    silent = type("It", (Most,), {})
    assert as_drafter(silent()).saves
    del_saves = type("It", (Least,), {"save": Most.save, "load": Most.load})
    assert as_drafter(del_saves()).saves
    assert not as_drafter(type("It", (Least,), {"save": Most.save})()).saves
    assert not as_drafter(type("It", (Most,), {"saves": False})()).saves
    assert as_drafter(Least()).drafts
    assert not as_drafter(type("It", (Least,), {"drafts": False})()).drafts


@pytest.mark.parametrize(
    ("thing", "reason"),
    [
        (None, "a drafter is an object with draft and observe; NoneType has no draft"),
        (Least, "has no draft"),
        (type("It", (), {"draft": Least.draft})(), "It has no observe"),
        (type("It", (Least,), {"needs": 8})(), "needs of drafter It is 8, expected a Needs"),
        (type("It", (Least,), {"name": 8})(), "name of drafter It is 8, expected a str"),
        (type("It", (Least,), {"saves": "no"})(), "saves of drafter It is 'no', expected a bool"),
        (type("It", (Least,), {"opened": None})(), "opened of drafter It is None, expected a method"),
    ],
)
def test_what_is_no_drafter(thing: object, reason: str) -> None:
    with pytest.raises(PluginError, match=reason):
        as_drafter(thing)


def test_merged() -> None:
    merged = Merge(Most(), Logits(2))  # type: ignore[arg-type]
    assert isinstance(merged.parts[0].drafter, DuckDrafter)
    assert (merged.label, merged.needs.top_k) == ("most+logits", 3)
    assert merged.drafts
    assert not Merge(NoDraft(), NoDraft()).drafts


def test_parts_that_name_no_source_are_credited_by_their_labels() -> None:
    def tree_of(token: int) -> DraftTree:
        return DraftTree.chain(torch.tensor([[2, token]]), torch.tensor([2]))

    first, second = (
        type(name, (Least,), {"draft": lambda self, view, budget, token=token: tree_of(token)})()
        for token, name in ((3, "First"), (4, "Second"))
    )
    view: Any = SimpleNamespace(requests=(REQUEST,), root=torch.tensor([2]), vocab_size=9)
    tree = Merge(first, second).draft(view, 8)
    assert tree is not None
    assert tree.source is not None
    assert [tree.sources[code] for code in tree.source[0, 1:].tolist()] == ["First", "Second"]


class Says:
    """A budget with the one method that it needs."""

    def nodes(self, view: Any) -> int:
        assert view is VIEW
        return 5


class Judges(Says):
    """A budget with everything, and arguments that it has not read about."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def fit(self, *args: Any) -> Any:
        self.heard.append(("fit", *args))
        return TREE

    def observe(self, *args: Any) -> None:
        self.heard.append(("observe", *args))

    def closed(self, request: Request) -> None:
        self.heard.append(("closed", request))


def test_a_budget_stays_as_it_is() -> None:
    budget = Fixed(3)
    assert as_budget(budget) is budget


def test_nodes_are_enough() -> None:
    budget = as_budget(Says())
    assert isinstance(budget, Budget)
    assert budget.nodes(VIEW) == 5
    assert budget.fit(VIEW, TREE, 7) is TREE
    budget.observe(VIEW, VERDICT, "stats")
    budget.closed(REQUEST)
    assert budget.fits_unseen, "so that drafting on the device goes on"


def test_everything_that_a_budget_has_is_used() -> None:
    duck: Any = Judges()
    budget: Any = as_budget(duck)
    assert budget.fit(VIEW, "trees", 7) is TREE
    budget.observe(VIEW, VERDICT, "stats")
    budget.closed(REQUEST)
    assert duck.heard == [("fit", VIEW, "trees", 7), ("observe", VIEW, VERDICT, "stats"), ("closed", REQUEST)]
    assert not budget.fits_unseen
    assert as_budget(type("It", (Judges,), {"fits_unseen": True})()).fits_unseen


@pytest.mark.parametrize(
    ("thing", "reason"),
    [
        (3, "a budget is an object with nodes; int has none"),
        (Says, "has none"),
        (type("It", (Says,), {"observe": 3})(), "observe of budget It is 3, expected a method"),
    ],
)
def test_what_is_no_budget(thing: object, reason: str) -> None:
    with pytest.raises(PluginError, match=reason):
        as_budget(thing)
