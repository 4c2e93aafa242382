"""What steps cost, by their nodes, as it is measured and as it is hoped for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from racer import DecodeConfig, Decoder
from racer.core.products import by_torch
from racer.engine.decoder import step_cost
from racer.step.cost_curve import LEGACY, MEASURED, SHORT, CostCurve
from racer.testing import decode, toy_model
from support.tiny_models import SMALL
from support.ways import take


@given(st.dictionaries(st.integers(1, 64), st.floats(0.1, 100), min_size=1))
def test_cost_never_falls_with_nodes(samples: dict[int, float]) -> None:
    curve = CostCurve()
    for nodes, cost in samples.items():
        curve.learn(nodes, cost)
    costs = [curve(nodes) for nodes in range(1, 65)]
    assert costs == pytest.approx(sorted(costs))
    assert min(samples.values()) <= costs[0] * (1 + 1e-9)
    assert costs[-1] <= max(samples.values()) * (1 + 1e-9)
    rising = [samples[nodes] for nodes in sorted(samples)]
    if rising == sorted(rising):
        assert [curve(nodes) for nodes in sorted(samples)] == pytest.approx(rising)


def test_cost_is_a_median_of_late_samples() -> None:
    curve = CostCurve(memory=5)
    assert curve(8) == 1.0
    for cost in (900, 10, 10, 10, 500, 10):  # a first call and a hiccup
        curve.learn(8, cost)
    assert curve.samples(8) == 5
    assert 8 < curve(8) < 25


def test_sizes_measured_at_different_times_compare() -> None:
    curve = CostCurve()
    for _ in range(20):
        curve.learn(1, 10)
        curve.learn(64, 30)
    for _ in range(60):  # the machine becomes half as fast, and only one size is seen
        curve.learn(64, 60)
    assert curve(64) / curve(1) == pytest.approx(3, rel=0.1)


def test_hiccups_do_not_make_other_sizes_seem_cheap() -> None:
    """A shared machine: noise, steps that are interrupted, slower spells; sizes that come in runs."""
    true = {8: 41.0, 12: 45.4, 16: 49.0, 20: 54.0, 24: 60.0}
    random, curve, size, slower, errors = np.random.default_rng(0), CostCurve(), 12, 1.0, []
    for step in range(1500):
        if step % 40 == 0:
            slower = random.choice([1.0, 1.0, 1.0, 1.15, 1.3])
        if random.random() < 0.15:
            size = int(random.choice([8, 12, 12, 16, 16, 20, 24]))
        hiccup = 1.6 if random.random() < 0.03 else 1.0
        curve.learn(size, true[size] * slower * hiccup * np.exp(random.normal(0, 0.03)))
        if step > 200:
            errors.append(curve(16) / curve(12) / (true[16] / true[12]) - 1)
    assert np.std(errors) < 0.02
    assert abs(np.mean(errors)) < 0.015


def test_a_cost_that_nobody_measured_is_hoped_for() -> None:
    curve = CostCurve()
    assert curve.hopeful([1, 2, 64]).tolist() == [1, np.inf, np.inf]
    for size, cost in ((64, 300), (64, 300), (1, 10)):
        curve.learn(size, cost)
    assert curve.hopeful([1, 64]).tolist() == [1, np.inf], "a plain step comes first"
    curve.learn(1, 10)
    slope = 290 / 63
    before = curve.hopeful([1, 22, 64, 128, 257])
    # 64: two samples of 300 against five halved doubts, as one size alone gives no line to go by
    assert before == pytest.approx([10, 10 + slope * 21 / 2, (2 * 300 + 2.5 * 10) / 4.5, 300 + slope * 64 / 2, np.inf])
    curve.learn(128, 4000)
    assert curve.hopeful([128])[0] == before[3], "a single sample may be far off"
    for _ in range(14):
        curve.learn(128, 400)
    assert curve.hopeful([128])[0] == pytest.approx(curve(128), rel=0.1)
    assert curve.hopeful([1]) == curve(1)


def test_costs_are_learned_once_for_a_model() -> None:
    model = toy_model()
    _, stats = decode(Decoder(model, DecodeConfig(drafter="racer", budget="auto")), [[1, 2, 3]], 50)
    assert stats.nodes[:2] == [1, 1]
    known = step_cost(model, 1, "off", False, 50).points()
    _, again = decode(Decoder(model, DecodeConfig(drafter="racer", budget="auto")), [[1, 2, 3]], 3)
    assert set(again.step_costs) >= set(known)
    assert step_cost(model, 1, "static", False, 50).points() == {}


def test_a_batch_hopes_for_what_steps_of_as_many_nodes_have_cost_in_another() -> None:
    model = toy_model()
    single = step_cost(model, 1, "off", False, 50)
    for nodes, cost in ((1, 10.0), (8, 12.0), (12, 13.0), (16, 15.0), (64, 30.0), (128, 900.0)):
        for _ in range(1 if nodes == 128 else 9):  # a single sample may be far off
            single.learn(nodes, cost)
    eight = step_cost(model, 8, "off", False, 50)
    assert eight.points() == {}
    assert eight.hopeful([1, 2]).tolist() == [1, np.inf], "a plain step comes first, as ever"
    for _ in range(MEASURED):
        eight.learn(1, 20.0)
    ratio = {2: 15 / 12, 4: (15 + 15 / 3) / 12}  # of 16 and 32 nodes
    hopes = eight.hopeful([1, 2, 4, 8])
    assert hopes[:3] == pytest.approx([20, 10 * (1 + ratio[2]), 10 * (1 + ratio[4])]), "half as steeply"
    assert np.isinf(hopes[3]), "beyond REACH"
    for _ in range(4 * MEASURED):
        eight.learn(2, 24.0)
    assert eight.hopeful([2])[0] / 20 == pytest.approx(1.2, rel=0.03), "its own samples soon count"
    four = step_cost(model, 4, "off", False, 50)
    for _ in range(MEASURED):
        four.learn(1, 20.0)
    assert four.hopeful([2])[0] == pytest.approx(10 * (1 + eight(2) / eight(1))), "no cheaper than with more rows"


@pytest.mark.parametrize("known", [{}, {1: 10.0}, {1: 10.0, 16: 40.0}])
def test_a_batch_of_which_too_little_is_known_starts_from_nothing(known: dict[int, float]) -> None:
    single = CostCurve()
    for nodes, cost in known.items():
        for _ in range(9):
            single.learn(nodes, cost)
    assert single.guess(16) == {}
    assert single.guess(1 / 2) == ({} if len(known) < 2 else pytest.approx({2: 1.2, 4: 1.6, 8: 2.4, 16: 4.0}))


def test_contexts_of_other_lengths_have_costs_of_their_own() -> None:
    """And they start from what is known of the nearest length."""
    model = toy_model()
    short = step_cost(model, 1, "off", False, 3)
    for nodes, cost in ((1, 10.0), (16, 12.0)):
        for _ in range(31):
            short.learn(nodes, cost)
    assert step_cost(model, 1, "off", False, SHORT - 1) is short
    long = step_cost(model, 1, "off", False, 2 * SHORT)
    assert long is not short
    assert long.points() == short.points()
    for _ in range(LEGACY + 1):
        long.learn(1, 20.0)
        long.learn(16, 36.0)
    assert long(16) / long(1) == pytest.approx(1.8)
    assert short(16) / short(1) == pytest.approx(1.2)
    assert step_cost(model, 1, "off", False, 9 * SHORT)(16) == long(16), "the nearest one's"
    assert step_cost(model, 1, "off", False, 2 * SHORT + 9) is long


def test_a_long_answer_ends_with_the_costs_of_long_contexts() -> None:
    model = toy_model()
    decode(Decoder(model, DecodeConfig(drafter="none")), [[1, 2, 3]], SHORT + 5)
    samples = [step_cost(model, 1, "off", False, length).samples(1) for length in (SHORT - 1, SHORT, 2 * SHORT - 1)]
    assert samples == [31, LEGACY + 8, LEGACY + 8], "a doubling begins at SHORT"


def test_two_slow_first_steps_do_not_count_for_long() -> None:
    curve = CostCurve()
    for _ in range(15):
        for size, cost in ((1, 40), (8, 50), (16, 59)):
            curve.learn(size, cost)
    for _ in range(2):
        curve.learn(12, 60)
    assert curve.hopeful([12])[0] < 56, "its neighbours know better"
    for _ in range(12):
        curve.learn(12, 54.5)
    assert curve.hopeful([12])[0] == pytest.approx(54.5, rel=0.05)


def test_steps_that_run_otherwise_have_costs_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    take(monkeypatch, by_torch)  # passes in which ways to multiply are timed count for nothing
    model = LlamaForCausalLM(LlamaConfig(**SMALL)).eval()
    ways = (("off", False), ("static", False), ("off", True))
    configs: tuple[dict[str, Any], ...] = ({"pack": False}, {"compile": "static", "pack": False}, {"pack": True})

    def run(tokens: int) -> list[int]:
        for config in configs:
            _, stats = decode(Decoder(model, DecodeConfig(drafter="none", budget=1, **config)), [[1, 2, 3]], tokens)
            assert stats.step_costs
        return [step_cost(model, 1, *how, length=12).samples(1) for how in ways]

    before = run(5)
    assert [now - then for now, then in zip(run(20), before, strict=True)] == [19, 19, 19]
