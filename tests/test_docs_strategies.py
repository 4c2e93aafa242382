"""The verifier and the budget that the documentation writes are ones, and are right."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import racer
from racer import Budget, DecodeConfig, Decoder, Recycling, Request, StepView, Verifier
from racer.config import Choice
from racer.discovery import Plugins
from racer.hf.processors import ProcessorPipeline
from racer.step.cost_curve import CostCurve
from racer.testing import decode, decode_plainly, toy_model

PAGE = (Path(__file__).parent.parent / "docs" / "hooks.md").read_text(encoding="utf-8")
MODEL = toy_model()


def example(what: str) -> dict[str, Any]:
    """The names that the section of that heading defines."""
    section = PAGE.split(f"## {what}\n")[1]
    code = re.findall(r"```python\n(.*?)```", section, flags=re.S)[0]
    assert len(code.strip().splitlines()) <= 40
    space: dict[str, Any] = {"__name__": "example"}
    exec(code, space)
    return space


VERIFIER, BUDGET = example("Write a verifier"), example("Write a budget")


def made(space: dict[str, Any], kind: str, choice: Choice) -> Any:
    found = Plugins(list)
    found.register(type("Module", (), {"racer_register": staticmethod(space["racer_register"])}), "docs")
    return found.make(kind, choice)


prompts = st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=8), min_size=1, max_size=3)


@given(prompts, st.booleans(), st.integers(2, 12))
def test_the_verifier_is_exact_with_a_margin_of_nothing(prompts: list[list[int]], sample: bool, budget: int) -> None:
    verifier: Verifier = VERIFIER["Near"](0)
    decoder = Decoder(MODEL, DecodeConfig(drafter=Recycling(3), verifier=verifier, budget=budget))
    got, _ = decode(decoder, prompts, 20, do_sample=sample)
    assert got == decode_plainly(MODEL, prompts, 20, do_sample=sample)


def test_the_verifier_accepts_more_with_a_wide_one() -> None:
    lengths = []
    for margin in (0.0, 1.0, 99.0):
        verifier = made(VERIFIER, "verifier", Choice("near", {"margin": margin}))
        decoder = Decoder(MODEL, DecodeConfig(drafter=Recycling(3), verifier=verifier, budget=8))
        lengths.append(decode(decoder, [[1, 2, 3]], 60)[1].mean_accepted_tokens)
    assert lengths[0] < lengths[1] < lengths[2]


def test_the_verifier_refuses_what_it_cannot_do() -> None:
    from transformers import RepetitionPenaltyLogitsProcessor

    decoder = Decoder(MODEL, DecodeConfig(verifier=VERIFIER["Near"](), drafter="none"))
    with pytest.raises(ValueError, match="takes no logits processors that read the text"):
        decode(decoder, [[1, 2]], 4, processors=[RepetitionPenaltyLogitsProcessor(1.5)])


def test_the_budget_keeps_to_its_time() -> None:
    budget: Budget = made(BUDGET, "budget", Choice("deadline", {"milliseconds": 30}))
    curve = CostCurve()
    request = Request((1,))
    root = torch.tensor([1])
    view = StepView((request,), (True,), root, root, 7, ProcessorPipeline([], 1), False, step_cost=curve)
    assert budget.nodes(view) == 64, "nothing is known yet"
    for size, cost in ((1, 10.0), (8, 20.0), (16, 28.0), (64, 90.0)):
        curve.learn(size, cost)
        curve.learn(size, cost)
    assert budget.nodes(view) == 16
    assert made(BUDGET, "budget", Choice("deadline", {"milliseconds": 5})).nodes(view) == 1


def test_the_budget_decodes() -> None:
    config = DecodeConfig(budget=BUDGET["Deadline"](1e-6), drafter=Recycling(3))
    got, stats = decode(Decoder(MODEL, config), [[1, 2, 3]], 20)
    assert got == decode_plainly(MODEL, [[1, 2, 3]], 20)
    assert set(stats.nodes) == {1}, "nothing is in time"


def test_what_plugin_authors_need_is_public() -> None:
    for name in ("Budget", "HostVerdict", "StepStats", "gumbel", "longest_path"):
        assert name in racer.__all__
        assert name in PAGE
