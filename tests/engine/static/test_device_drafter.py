"""A drafter on the device is part of the captured step, unless somebody has to see its trees or it fails there."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

import racer
from racer import DecodeConfig, Decoder, DeviceDrafter, Needs, Recycling
from racer.budgets import Fixed
from racer.core.model_state import release
from racer.engine.static.cuda_graphs import GraphWarning
from racer.guard import PluginWarning
from racer.step.verdict import Verdict
from racer.step.view import StepView
from racer.strategies.recycling import Matrix
from racer.testing import decode, decode_plainly, toy_model
from racer.testing.toy import ToyConfig
from support.pretender import PROMPTS, NeedsHost, pretend, recycled
from support.tiny_models import batch, tiny
from support.toy import VOCAB


def test_a_drafter_on_the_device_becomes_part_of_the_graph_and_drafts_there_what_it_drafts_elsewhere(
    told: list[int],
) -> None:
    model = toy_model(VOCAB)
    machine, drafter = pretend(model, 2), Recycling(4)
    got, stats = recycled(model, drafter, "static")
    assert told == [5], "the longer prompt, and nothing else"
    plain, outside = recycled(model, Recycling(4), "off")
    assert got == plain == decode_plainly(model, PROMPTS, 40)
    assert stats.accept_lengths == outside.accept_lengths, "it has learned as much, and nothing from rehearsals"
    assert stats.mean_accepted_tokens > 1
    assert stats.drafted == outside.drafted
    assert set(stats.drafted) == {"recycling"}
    assert all(key.kind[2] is not None for key in machine.kinds)
    recycled(model, drafter, "static")
    assert len(machine.kinds) == len(set(machine.kinds)), "the next call uses the same graphs"
    release(model)


def test_another_drafter_gets_graphs_of_its_own() -> None:
    """They hold the addresses of the one that they were captured with."""
    model, drafters = toy_model(VOCAB), (Recycling(4), Recycling(4))
    machine = pretend(model, 2)
    prepared = []
    for drafter in (*drafters, *drafters):
        recycled(model, drafter, "static", new=12)
        prepared.append(len(machine.kinds))
    assert 0 < prepared[0] < prepared[1] == prepared[2] == prepared[3]
    release(model)


class AsksTheHost(DeviceDrafter):
    """Is wrong about living on the device alone."""

    name = "asks"
    needs = Needs(top_k=4, prompt=Needs.ALL, host=False)

    def __init__(self, at: str) -> None:
        super().__init__()
        self.at = at

    def make(self, device: torch.device, vocab_size: int) -> Any:
        at = self.at

        class Asking(Matrix):
            def draft(self, root: Tensor, nodes: int) -> Any:
                if at == "draft":
                    int(root.sum())
                tree = super().draft(root, nodes)
                return tree.padded(nodes + 1) if at == "form" else tree

            def observe(self, tree: Any, verdict: Verdict, active: Tensor) -> None:
                if at == "observe":
                    int(active.sum())
                super().observe(tree, verdict, active)

        return Asking(4, vocab_size, device)


@pytest.mark.parametrize(
    ("at", "reason"),
    [("draft", "_local_scalar_dense"), ("observe", "_local_scalar_dense"), ("form", "14 columns, the budget is 13")],
)
def test_a_drafter_that_cannot_be_captured_stays_outside(at: str, reason: str) -> None:
    model = toy_model(VOCAB)
    machine = pretend(model, 2)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        got, stats = recycled(model, AsksTheHost(at), "static")
    assert got == decode_plainly(model, PROMPTS, 40)
    (graph,) = (str(entry.message) for entry in said if entry.category is GraphWarning)
    assert graph.startswith("ToyLM has its drafter outside the CUDA graph: ")
    assert reason in graph
    assert machine.kinds[-1].kind[0] is not None, "the verifier is inside still"
    assert machine.kinds[-1].kind[2] is None
    assert (stats.mean_accepted_tokens > 1) == (at != "form"), "from outside it drafts on"
    release(model)


def test_auto_learns_the_size_of_trees_that_are_drafted_in_the_graph() -> None:
    """A plain step is measured first, then sizes that may pay."""
    widths = {}
    for compile in ("static", "off"):
        model = toy_model(50)
        if compile == "static":
            machine = pretend(model, 2)
        _, stats = recycled(model, Recycling(4), compile, new=120, budget="auto")
        widths[compile] = stats.nodes
    assert all(key.kind[2] is not None for key in machine.kinds)
    assert widths["static"][:2] == widths["off"][:2] == [1, 1]
    assert len(set(widths["static"])) > 1
    release(model)


class Cutting(Fixed):
    """Looks at trees before they are scored."""

    def fit(self, view: StepView, tree: Any, nodes: int) -> Any:
        return tree.head(4)


class Careful(Recycling):
    """Gives no more than three nodes."""

    def draft(self, view: StepView, budget: int) -> Any:
        return super().draft(view, min(budget, 3))


class Fails(Fixed):
    fits_unseen = True

    def fit(self, view: StepView, tree: Any, nodes: int) -> Any:
        raise ZeroDivisionError("of the budget")


@pytest.mark.parametrize(
    ("drafter", "budget", "widths", "joins"),
    [
        (Recycling(4), Cutting(13), {4}, False),
        (Careful(4), Fixed(13), {3}, False),
        (Recycling(4), Fails(13), {13}, True),
    ],
)
def test_who_sees_trees_before_they_are_scored_keeps_the_drafter_outside(
    drafter: Any, budget: Any, widths: set[int], joins: bool
) -> None:
    model = toy_model(VOCAB)
    machine, decoder = pretend(model, 2), Decoder(model, DecodeConfig(drafter=drafter, compile="static"))
    decoder.strategies.budget = budget
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        got, stats = decode(decoder, PROMPTS, 30)
    assert got == decode_plainly(model, PROMPTS, 30)
    assert set(stats.nodes) <= widths | {1} > set(stats.nodes) - widths
    assert (machine.kinds[-1].kind[2] is not None) == joins
    assert [str(entry.message) for entry in said if "the budget" in str(entry.message)] == (
        ["the budget is left out where it fails: ZeroDivisionError: of the budget"] if joins else []
    )
    release(model)


def test_a_drafter_that_fails_outside_a_graph_never_ends_a_call() -> None:
    """The model cannot be captured, so the step runs as it is, where nothing stands around a drafter inside."""

    class Failing(DeviceDrafter):
        def make(self, device: torch.device, vocab_size: int) -> Any:
            class Bad(Matrix):
                def observe(self, tree: Any, verdict: Verdict, active: Tensor) -> None:
                    raise ZeroDivisionError("of the drafter")

            return Bad(4, vocab_size, device)

    model = NeedsHost(ToyConfig(vocab_size=VOCAB)).eval()
    pretend(model, 2)
    drafter = Failing()
    drafter.needs = Needs(top_k=4, host=False)
    with pytest.warns((GraphWarning, PluginWarning)) as said:
        got, _ = recycled(model, drafter, "static")
    assert got == decode_plainly(toy_model(VOCAB), PROMPTS, 40)
    assert {entry.category for entry in said} == {GraphWarning, PluginWarning}
    release(model)


def test_of_one_node_no_drafter_is_asked() -> None:
    class Two(DeviceDrafter):
        needs = Needs(top_k=4, host=False)

        def make(self, device: torch.device, vocab_size: int) -> Any:
            class AlwaysTwo(Matrix):
                def draft(self, root: Tensor, nodes: int) -> Any:
                    return super().draft(root, 2)

            return AlwaysTwo(4, vocab_size, device)

    model = toy_model(VOCAB)
    machine = pretend(model, 2)
    got, _ = recycled(model, Two(), "static", new=12)
    assert got == decode_plainly(model, PROMPTS, 12)
    assert all(key.kind[2] is not None for key in machine.kinds)
    assert 1 in {key.nodes for key in machine.kinds}
    release(model)


def test_a_plugin_that_sees_drafts_keeps_the_drafter_outside(told: list[int]) -> None:
    class Sees:
        widths: list[int] = []  # noqa: RUF012

        @racer.hookimpl(wrapper=True)
        def racer_draft(self, view: StepView, budget: int) -> Any:
            tree = yield
            self.widths.append(tree.width)
            return tree

    model = toy_model(VOCAB)
    machine = pretend(model, 2)
    got, stats = recycled(model, Recycling(4), "static", plugins=(Sees(),))
    assert len(told) == 1 + stats.steps
    assert got == decode_plainly(model, PROMPTS, 40)
    assert machine.kinds[-1].kind[2] is None
    assert set(Sees.widths) == {13}
    release(model)


def test_a_verifier_outside_keeps_the_drafter_outside(told: list[int]) -> None:
    model, drafter = tiny("llama"), Recycling(4)
    how = {"max_new_tokens": 25, "do_sample": False, "repetition_penalty": 1.3}
    machine = pretend(model, 3)
    config = DecodeConfig(drafter=drafter, budget=8, compile="static")
    assert torch.equal(racer.generate(model, config=config, **batch(), **how), model.generate(**batch(), **how))
    assert machine.kinds[-1].kind == (None, (drafter.needs,), None)
    assert len(told) > 5
    release(model)


class GivesNoTree(Fixed):
    fits_unseen = True

    def fit(self, view: StepView, tree: Any, nodes: int) -> Any:
        return "four"


def test_a_budget_that_gives_no_tree_for_one_that_is_yet_to_come_never_ends_a_call() -> None:
    model = toy_model(VOCAB)
    pretend(model, 2)
    decoder = Decoder(model, DecodeConfig(drafter=Recycling(4), compile="static", budget=GivesNoTree(13)))
    with pytest.warns(PluginWarning, match="the budget"):
        got, _ = decode(decoder, PROMPTS, 30)
    assert got == decode_plainly(model, PROMPTS, 30)
    release(model)
