"""The budget by scores on a simulated machine."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import pytest
import torch

from racer import DecodeConfig, Decoder, Request
from racer.budgets import ByScore, Fixed
from racer.step.cost_curve import CostCurve
from racer.step.request import add_step, add_tokens
from racer.testing import decode, toy_model
from support.simulated_machine import a_chain, a_curve, a_verdict, a_view, asked_for, settled


def rate(budget: Any, chances: np.ndarray, slope: float) -> float:
    """Tokens per millisecond where step i's guesses are right with ``chances[i]``, and its scores say so."""
    random, tokens, curve, requests = np.random.default_rng(1), 0, a_curve(slope), (Request((1,)),)
    spent = 0.0
    for chance in chances:
        view = a_view(curve, requests)
        nodes = budget.nodes(view)
        tree = a_chain(nodes, chance)
        tree = budget.fit(view, tree, nodes) if nodes > 1 else tree
        lucky = int(random.geometric(1 - chance)) - 1
        right = min(lucky, tree.width - 1) + 1
        budget.observe(view, a_verdict(tree, right), asked_for(nodes))
        tokens, spent = tokens + right, spent + curve(tree.width)
    return tokens / spent


@pytest.mark.parametrize(("poor", "rich"), [(0.5, 0.5), (0.2, 0.9), (0.02, 0.95)])
@pytest.mark.parametrize("stays", [1, 60])
@pytest.mark.parametrize("slope", [0.01, 0.05, 0.2])
def test_it_is_about_as_good_as_the_best_fixed_size(poor: float, rich: float, stays: int, slope: float) -> None:
    """Text that is hard and easy by turns, each for some steps: no size must be known before."""
    chances = np.repeat(np.random.default_rng(0).choice([poor, rich], 420 // stays), stays)
    best = max(rate(Fixed(size), chances, slope) for size in (1, 2, 4, 8, 16, 32, 64))
    assert rate(ByScore(), chances, slope) >= 0.95 * best


def test_what_rejected_nodes_teach_counts_only_where_something_is_accepted() -> None:
    def size(chance: float, slope: float, kept: int, lesson: float) -> int:
        judge, curve = ByScore(lesson=lesson), a_curve(slope)
        view = a_view(curve, (Request((1,)),))
        tree = a_chain(32, chance)
        for _ in range(100):
            judge.observe(view, a_verdict(judge.fit(view, tree, 32), 1 + kept), asked_for(32))
        return judge.fit(view, tree, 32).width

    assert size(0.6, 0.05, kept=1, lesson=0.5) > size(0.6, 0.05, kept=1, lesson=0.0)
    assert size(0.1, 0.2, kept=0, lesson=0.2) == size(0.1, 0.2, kept=0, lesson=0.0) == 1


def test_a_call_in_which_nothing_can_be_guessed_begins_plainly() -> None:
    """What is hoped for before anything was kept is what the first tree promises."""

    def first(chance: float) -> int:
        view = a_view(a_curve(0.1), (Request([1], 99),))
        return ByScore().fit(view, a_chain(32, chance), 32).width

    assert first(0.05) == 1
    assert first(0.8) >= 8


def test_trees_are_not_taken_because_a_curve_finds_them_free() -> None:
    assert set(settled(ByScore(), a_view(a_curve(0.0), (Request([1], 99),)), chance=0.005, steps=60)) == {1}


def test_what_was_learned_in_one_batch_serves_another() -> None:
    dear = CostCurve()
    for _ in range(15):
        for size in range(1, 65):
            dear.learn(size, 1000 * (1 + 0.03 * (size - 1)))  # a hundred times as dear as a_curve's
    judge, requests = ByScore(), (Request((1,)),)
    before = settled(judge, a_view(a_curve(0.03), requests), chance=0.7, steps=200)
    after = settled(judge, a_view(dear, requests), chance=0.7, steps=20)
    assert np.median(after) == pytest.approx(np.median(before), abs=2)


def test_a_new_call_does_not_spend_as_the_last_one_did() -> None:
    """After a text that repeats itself, one that cannot be guessed."""
    for again, least, most in ((False, 1, 6), (True, 12, 64)):
        judge, view = ByScore(), a_view(a_curve(0.05), (Request((1,)),))
        assert np.median(settled(judge, view, chance=0.95, steps=60)) >= 20
        following = view if again else a_view(a_curve(0.05), (Request((1,)),))
        nodes = judge.nodes(following)
        assert least <= judge.fit(following, a_chain(nodes, 0.2), nodes).width <= most
        if not again:
            assert np.median(settled(judge, view, chance=0.95, steps=8)) >= 20, "the other call goes on as before"


def test_steps_that_pay_less_than_plain_ones_do_not_lower_the_bar() -> None:
    """Once tokens are dearer than plain ones because of what is spent, that is no excuse for spending more."""
    curve = CostCurve()
    for _ in range(31):
        for size, cost in ((1, 10), (2, 17), (4, 22), (6, 27), (8, 34), (64, 240)):
            curve.learn(size, cost)
    widths = settled(ByScore(), a_view(curve, (Request((1,)),)), chance=0.55, steps=60)
    assert np.mean(widths) < 1.5, "four nodes give 2 tokens for 2.2 plain steps"


def test_calls_side_by_side_do_not_disturb_each_other() -> None:
    judge, rich, poor = ByScore(), *(a_view(a_curve(0.1), (Request((1,)),)) for _ in range(2))
    for _ in range(8):
        widths = settled(judge, rich, chance=0.95, steps=20), settled(judge, poor, chance=0.01, steps=20)
    assert np.median(widths[0]) >= 12
    assert np.median(widths[1]) == 1


def test_ended_calls_are_forgotten() -> None:
    decoder = Decoder(toy_model(), DecodeConfig(drafter="racer", budget="auto"))
    decode(decoder, [[1, 2, 3], [4]], 20)
    assert decoder.strategies.budget._by_score._calls == {}


def test_rows_that_are_alike_are_not_told_apart_by_their_luck() -> None:
    """Else a batch would seem to keep less than it does."""
    random, judge = np.random.default_rng(0), ByScore(memory=1)
    requests = tuple(Request((1,), limit=10_000) for _ in range(8))
    for step in range(200):
        view = attrs.evolve(a_view(a_curve(0.01), requests), step=step)
        tree = a_chain(8, 0.5, rows=8)
        judge.fit(view, tree, 8)
        verdict = a_verdict(tree, 1)
        verdict.host.length[:] = np.minimum(random.geometric(0.5, 8), 8)  # type: ignore[union-attr]
        for request, kept in zip(requests, verdict.host.length, strict=True):  # type: ignore[union-attr]
            add_step(request, int(kept))
            add_tokens(request, [1] * int(kept))
        judge.observe(view, verdict, asked_for(8))
    _, _, kept, promised = judge._call(view).outlook.lately
    assert kept / promised == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("ahead", ["in tokens", "in pace"])
def test_the_rows_that_have_most_steps_to_go_decide(ahead: str) -> None:
    said = (80, 20) if ahead == "in pace" else (0, 0)  # so much of it
    quick, slow = Request((1,), limit=100 + said[0]), Request((2,), limit=100 + said[1])
    if ahead == "in tokens":
        add_tokens(quick, [1] * 60)
    else:
        for _ in range(20):
            add_step(quick, 4)
            add_step(slow, 1)
    for rich, expected in ((quick, 1), (slow, 16)):
        judge, view = ByScore(), attrs.evolve(a_view(a_curve(0.02), (quick, slow)), step=20)
        for _ in range(30):
            chances = torch.tensor([0.95 if request is rich else 0.0 for request in view.requests])
            tree = attrs.evolve(a_chain(64, 0.5, rows=2), score=chances[:, None] ** torch.arange(64.0))
            width = judge.fit(view, tree, 64).width
            verdict = a_verdict(tree.head(width), 1)
            verdict.host.length[view.requests.index(rich)] = min(width, 15)  # type: ignore[union-attr]
            judge.observe(view, verdict, asked_for(64))
        assert width == 1 if expected == 1 else width >= expected


def test_scores_that_are_no_chances_do_no_harm() -> None:
    judge, view = ByScore(), a_view(a_curve(0.05), (Request((1,)),))
    for wild in (np.inf, -np.inf, np.nan, -7.0, 1e30):
        judge.fit(view, attrs.evolve(a_chain(8, 0.5), score=torch.full((1, 8), wild)), 8)
        judge.observe(view, a_verdict(a_chain(8, 0.5), 2), asked_for(8))
    assert np.isfinite(judge._call(view).outlook.average).all()
    sizes = settled(judge, view, chance=0.6, steps=200)
    assert 4 <= np.median(sizes) <= 16


def test_an_average_that_has_not_been_told_of_for_long_is_not_believed() -> None:
    judge, view, rich = ByScore(), a_view(a_curve(0.001), (Request((1,)),)), 0.0
    for nodes, chance, steps in ((64, 0.99, 100), (8, 0.3, 150), (64, 0.3, 3)):
        for _ in range(steps):
            judge.fit(view, a_chain(nodes, chance), nodes)
            rich = max(rich, judge._call(view).outlook.average[0, -1])
    assert judge._call(view).outlook.average[0, -1] < rich / 8, "as the last three trees say"
