"""The cost curve, and the automatic budget on a simulated machine."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from racer import DecodeConfig, Decoder, DraftTree, Request, StepView, Verdict
from racer.budget import SIZES, Auto, CostCurve, Fixed
from racer.pipeline import ProcessorPipeline
from racer.testing import decode, decode_plainly, toy_model


@given(st.dictionaries(st.integers(1, 64), st.floats(0.1, 100), min_size=1))
def test_cost_never_falls_with_nodes(samples: dict[int, float]) -> None:
    curve = CostCurve()
    for nodes, cost in samples.items():
        curve.learn(nodes, cost)
    costs = [curve(nodes) for nodes in range(1, 65)]
    assert costs == sorted(costs)
    assert curve(min(samples)) == pytest.approx(samples[min(samples)])


def test_cost_is_a_median_of_late_samples() -> None:
    curve = CostCurve(memory=5)
    assert curve(8) == 1.0
    for cost in (900, 10, 10, 10, 500, 10):  # a first call and a hiccup
        curve.learn(8, cost)
    assert curve(8) == 10


def simulate(chance: float, slope: float, steps: int = 400) -> list[int]:
    """Sizes chosen when each guess of a chain is right with ``chance``, and a node costs ``slope`` of a plain step."""
    auto, random, asked = Auto(), np.random.default_rng(0), []
    requests = (Request((1,)),)
    for step in range(steps):
        view = StepView(
            requests=requests, active=(True,), root=torch.tensor([1]), position=torch.tensor([0]), vocab_size=9,
            pipeline=ProcessorPipeline(), do_sample=False, step_cost=lambda nodes: 10 * (1 + slope * nodes), step=step,
        )  # fmt: skip
        nodes = auto.nodes(view)
        asked.append(nodes)
        right = 1
        while right < nodes and random.random() < chance:
            right += 1
        view.settled.budget = nodes
        tree = DraftTree.chain(torch.ones(1, nodes, dtype=torch.long), torch.tensor([nodes]))
        path = torch.arange(nodes)[None]
        verdict = Verdict(path, torch.tensor([right]), torch.tensor([1]))
        verdict.to_host(tree, torch.zeros(1, dtype=torch.long))
        auto.observe(view, verdict)
    return asked[100:]


def test_a_last_step_of_one_node_teaches_nothing() -> None:
    auto = Auto()
    before = auto._accepted.copy()
    auto._asked = 64
    requests = (Request((1,)),)
    view = StepView(
        requests=requests, active=(True,), root=torch.tensor([1]), position=torch.tensor([0]), vocab_size=9,
        pipeline=ProcessorPipeline(), do_sample=False,
    )  # fmt: skip
    view.settled.budget = 1  # not what it asked for: one token was left
    verdict = Verdict(torch.zeros(1, 1, dtype=torch.long), torch.tensor([1]), torch.tensor([1]))
    verdict.to_host(DraftTree.root(torch.tensor([1])), torch.zeros(1, dtype=torch.long))
    auto.observe(view, verdict)
    assert np.array_equal(auto._accepted, before)


def test_auto_spends_much_where_guesses_are_right_and_nodes_are_cheap() -> None:
    assert np.median(simulate(chance=0.97, slope=0.003)) >= 32


def test_auto_decodes_plainly_where_drafting_does_not_pay() -> None:
    sizes = simulate(chance=0.02, slope=0.2)
    assert np.mean([size == 1 for size in sizes]) > 0.9


def test_auto_finds_the_middle() -> None:
    sizes = simulate(chance=0.6, slope=0.05)
    gain = [sum(0.6**i for i in range(size)) / (1 + 0.05 * size) for size in SIZES]
    best = SIZES[int(np.argmax(gain))]
    assert abs(SIZES.index(int(np.median(sizes))) - SIZES.index(best)) <= 1


def test_fixed_is_fixed_and_the_last_token_needs_no_tree() -> None:
    stub: Any = None
    assert Fixed(7).nodes(stub) == 7
    model = toy_model()
    got, stats = decode(Decoder(model, DecodeConfig(drafter="logits", budget=9)), [[1, 2, 3]], 30)
    assert got == decode_plainly(model, [[1, 2, 3]], 30)
    assert max(stats.nodes) == 9


def test_auto_through_the_decoder_reports_its_costs() -> None:
    model = toy_model()
    got, stats = decode(Decoder(model, DecodeConfig(drafter="racer", budget="auto")), [[1, 2, 3]], 60)
    assert got == decode_plainly(model, [[1, 2, 3]], 60)
    assert stats.step_costs
    assert all(cost > 0 for cost in stats.step_costs.values())
