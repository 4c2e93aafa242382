"""The cost curve, and the automatic budget on a simulated machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_tiny_models import SMALL
from transformers import LlamaConfig, LlamaForCausalLM

from racer import DecodeConfig, Decoder, DraftTree, Request, StepView, Verdict
from racer.budgets import SIZES, Auto, ByScore, Fixed
from racer.budgets.scores import AHEAD
from racer.hf.processors import ProcessorPipeline
from racer.step.cost_curve import LEGACY, MEASURED, REACH, SHORT, CostCurve, curve_of
from racer.testing import decode, decode_plainly, toy_model


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


def a_curve(slope: float) -> CostCurve:
    """A plain step costs 10 ms, and every further node ``slope`` of that."""
    curve = CostCurve()
    for _ in range(3):
        for size in range(1, 65):
            curve.learn(size, 10 * (1 + slope * (size - 1)))
    return curve


def a_view(curve: CostCurve, requests: tuple[Request, ...]) -> StepView:
    """Of rows that all go on, in the midst of a call."""
    roots = torch.tensor([request.tokens[-1] for request in requests])
    return StepView(
        requests=requests, active=(True,) * len(requests), root=roots, position=torch.zeros_like(roots), vocab_size=9,
        pipeline=ProcessorPipeline(), do_sample=False, step_cost=curve, step=1,
    )  # fmt: skip


def a_verdict(tree: DraftTree, right: int) -> Verdict:
    """Chains of which the first ``right`` nodes are accepted."""
    path = torch.arange(tree.width).expand(tree.batch, -1)
    verdict = Verdict(path, torch.full((tree.batch,), right), torch.ones(tree.batch, dtype=torch.long))
    verdict.to_host(tree, torch.zeros(tree.batch, dtype=torch.long))
    return verdict


def simulate(
    chance: float,
    slope: float,
    scored: bool,
    steps: int = 400,
    flattery: float = 1.0,
    asked: bool = False,
    new: bool = False,
    cost: Callable[[int], float] | None = None,
) -> list[int]:
    """Sizes taken when each guess of a chain is right with ``chance``; its scores say so, ``flattery`` times over.

    :param asked: give the sizes that the drafter is asked for, not those that are left of its trees.
    :param new: nobody knows what steps cost; the first 100 steps are given too.
    :param cost: milliseconds of a step, by its size, in place of ``slope``.
    """
    auto, random, taken, curve = Auto(), np.random.default_rng(0), [], CostCurve() if new else a_curve(slope)
    requests = (Request((1,)),)
    for _ in range(steps):
        view = a_view(curve, requests)
        view.settled.budget = nodes = auto.nodes(view)
        tree = DraftTree.chain(torch.ones(1, nodes, dtype=torch.long), torch.tensor([nodes]))
        if scored:
            tree = attrs.evolve(tree, score=flattery * chance ** torch.arange(nodes, dtype=torch.float32)[None])
        tree = auto.fit(view, tree) if nodes > 1 else tree
        taken.append(nodes if asked else tree.width)
        right = 1
        while right < tree.width and random.random() < chance:
            right += 1
        auto.observe(view, a_verdict(tree, right))
        curve.learn(tree.width, cost(tree.width) if cost else 10 * (1 + slope * (tree.width - 1)))
    return taken if new else taken[100:]


def test_a_last_step_of_one_node_teaches_nothing() -> None:
    auto = Auto()
    before = str((vars(auto._by_score), vars(auto._by_record)))
    auto._asked = 64
    view = a_view(CostCurve(), (Request((1,)),))
    view.settled.budget = 1  # not what it asked for: one token was left
    auto.observe(view, a_verdict(DraftTree.root(torch.tensor([1])), 1))
    assert before == str((vars(auto._by_score), vars(auto._by_record)))


both = pytest.mark.parametrize("scored", [True, False])


@both
def test_auto_spends_much_where_guesses_are_right_and_nodes_are_cheap(scored: bool) -> None:
    assert np.median(simulate(chance=0.97, slope=0.003, scored=scored)) >= 32


@both
def test_auto_decodes_plainly_where_drafting_does_not_pay(scored: bool) -> None:
    sizes = simulate(chance=0.02, slope=0.2, scored=scored)
    assert np.mean([size == 1 for size in sizes]) > 0.9


@both
def test_auto_finds_the_middle(scored: bool) -> None:
    sizes = simulate(chance=0.6, slope=0.05, scored=scored)
    gain = [sum(0.6**i for i in range(size)) / (1 + 0.05 * (size - 1)) for size in SIZES]
    best = SIZES[int(np.argmax(gain))]
    assert abs(SIZES.index(int(np.median(sizes))) - SIZES.index(best)) <= 1


def test_a_drafter_that_speaks_seldom_is_soon_heard_again() -> None:
    """Long it was wrong, and plain decoding paid; then passages are copied, with nothing to say between them."""
    auto, curve, requests, asked = Auto(), a_curve(0.05), (Request((1,)),), []
    for step in range(800):
        view = a_view(curve, requests)
        speaks = step % 40 < 8
        view.settled.budget = nodes = auto.nodes(view)
        given = min(nodes, 20) if speaks else 1
        tree = DraftTree.chain(torch.ones(1, given, dtype=torch.long), torch.tensor([given]))
        tree = auto.fit(view, tree)
        right = tree.width if step >= 400 else 1
        auto.observe(view, a_verdict(tree, right))
        asked += [nodes] if speaks else []
    spent = 0.05 * (np.minimum(asked[20:80], 20) - 1).sum() / 300  # of plain decoding's time
    assert spent < 0.04, "while it is wrong"
    assert np.mean(np.array(asked[100:]) >= 16) > 0.9, "when it has been right for half a passage"


def test_fixed_is_fixed_and_the_last_token_needs_no_tree() -> None:
    stub: Any = None
    assert Fixed(7).nodes(stub) == 7
    model = toy_model()
    got, stats = decode(Decoder(model, DecodeConfig(drafter="logits", budget=9)), [[1, 2, 3]], 30)
    assert got == decode_plainly(model, [[1, 2, 3]], 30)
    assert max(stats.nodes) == 9


def test_scores_that_flatter_are_set_right() -> None:
    honest, flattered = (simulate(0.3, 0.1, scored=True, flattery=factor) for factor in (1.0, 4.0))
    assert abs(np.mean(honest) - np.mean(flattered)) <= 1.5


def test_a_change_of_text_is_followed() -> None:
    auto, curve, requests, widths = Auto(), a_curve(0.02), (Request((1,)), Request((2,))), []
    for step in range(600):
        view = a_view(curve, requests)
        view.settled.budget = nodes = auto.nodes(view)
        sure = step < 200 or step >= 400
        tree = DraftTree.chain(torch.ones(2, nodes, dtype=torch.long), torch.full((2,), nodes))
        score = (0.99 if sure else 0.01) ** torch.arange(nodes, dtype=torch.float32).expand(2, -1)
        tree = auto.fit(view, attrs.evolve(tree, score=score)) if nodes > 1 else tree
        auto.observe(view, a_verdict(tree, tree.width if sure else 1))
        widths.append(tree.width)
    assert (widths[199], widths[599]) == (64, 64)
    assert max(widths[360:400]) <= 4


def test_where_nothing_can_be_guessed_hardly_a_tree_is_asked_for() -> None:
    asked = simulate(chance=0.02, slope=0.2, scored=True, asked=True)
    assert np.mean([nodes > 1 for nodes in asked]) == pytest.approx(1 / 8, abs=0.02)
    assert set(simulate(chance=0.9, slope=0.01, scored=True, asked=True)) == {SIZES[-1]}
    assert max(simulate(chance=0.4, slope=0.2, scored=True, asked=True)) <= AHEAD * 4


@both
def test_no_step_is_wasted_to_learn_what_steps_cost(scored: bool) -> None:
    sizes = simulate(chance=0.02, slope=0.2, scored=scored, new=True)
    cost = [1 + 0.2 * (size - 1) for size in sizes]
    assert max(sizes) <= 16
    assert sum(cost) < 1.08 * len(sizes), "against plain decoding"
    assert sum(cost[:50]) < 1.5 * 50


@both
def test_what_pays_is_found_from_nothing(scored: bool) -> None:
    late = simulate(chance=0.97, slope=0.003, scored=scored, new=True)
    assert late[:2] == [1, 1]
    assert np.median(late[10:]) >= 32
    largest = np.maximum.accumulate(late)
    assert (largest[1:] <= REACH * largest[:-1]).all()


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


@pytest.mark.parametrize("hiccup", [4, 16, 64])
def test_a_slow_first_step_of_a_size_is_forgiven(hiccup: int) -> None:
    def cost(size: int) -> float:
        slow = size == hiccup and size not in seen
        seen.add(size)
        return (5 if slow else 1) * 10 * (1 + 0.01 * (size - 1))

    seen: set[int] = set()
    assert np.median(simulate(chance=0.9, slope=0.0, scored=True, new=True, cost=cost)[60:]) >= 20


def test_costs_are_learned_once_for_a_model() -> None:
    model = toy_model()
    _, stats = decode(Decoder(model, DecodeConfig(drafter="racer", budget="auto")), [[1, 2, 3]], 50)
    assert stats.nodes[:2] == [1, 1]
    known = curve_of(model, 1, "off", False, 50).points()
    _, again = decode(Decoder(model, DecodeConfig(drafter="racer", budget="auto")), [[1, 2, 3]], 3)
    assert set(again.step_costs) >= set(known)
    assert curve_of(model, 1, "static", False, 50).points() == {}


def test_a_batch_hopes_for_what_steps_of_as_many_nodes_have_cost_in_another() -> None:
    model = toy_model()
    single = curve_of(model, 1, "off", False, 50)
    for nodes, cost in ((1, 10.0), (8, 12.0), (12, 13.0), (16, 15.0), (64, 30.0), (128, 900.0)):
        for _ in range(1 if nodes == 128 else 9):  # a single sample may be far off
            single.learn(nodes, cost)
    eight = curve_of(model, 8, "off", False, 50)
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
    four = curve_of(model, 4, "off", False, 50)
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
    short = curve_of(model, 1, "off", False, 3)
    for nodes, cost in ((1, 10.0), (16, 12.0)):
        for _ in range(31):
            short.learn(nodes, cost)
    assert curve_of(model, 1, "off", False, SHORT - 1) is short
    long = curve_of(model, 1, "off", False, 2 * SHORT)
    assert long is not short
    assert long.points() == short.points()
    for _ in range(LEGACY + 1):
        long.learn(1, 20.0)
        long.learn(16, 36.0)
    assert long(16) / long(1) == pytest.approx(1.8)
    assert short(16) / short(1) == pytest.approx(1.2)
    assert curve_of(model, 1, "off", False, 9 * SHORT)(16) == long(16), "the nearest one's"
    assert curve_of(model, 1, "off", False, 2 * SHORT + 9) is long


def test_a_long_answer_ends_with_the_costs_of_long_contexts() -> None:
    model = toy_model()
    decode(Decoder(model, DecodeConfig(drafter="none")), [[1, 2, 3]], SHORT + 5)
    samples = [curve_of(model, 1, "off", False, length).samples(1) for length in (SHORT - 1, SHORT, 2 * SHORT - 1)]
    assert samples == [31, LEGACY + 8, LEGACY + 8], "a doubling begins at SHORT"


def test_auto_through_the_decoder_reports_its_costs() -> None:
    model = toy_model()
    got, stats = decode(Decoder(model, DecodeConfig(drafter="racer", budget="auto")), [[1, 2, 3]], 60)
    assert got == decode_plainly(model, [[1, 2, 3]], 60)
    assert stats.step_costs
    assert all(cost > 0 for cost in stats.step_costs.values())


def test_a_plugins_budget_between_two_sizes_is_spent() -> None:
    view = a_view(a_curve(0.01), (Request((1,)),))
    view.settled.budget = 3  # whatever auto has asked for
    tree = DraftTree.chain(torch.ones(1, 3, dtype=torch.long), torch.tensor([3]))
    fitted = Auto().fit(view, attrs.evolve(tree, score=torch.tensor([[1.0, 0.9, 0.8]])))
    assert fitted.width == 3


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


def rate(budget: Any, chances: np.ndarray, slope: float) -> float:
    """Tokens per millisecond where step i's guesses are right with ``chances[i]``, and its scores say so."""
    random, tokens, curve, requests = np.random.default_rng(1), 0, a_curve(slope), (Request((1,)),)
    spent = 0.0
    for chance in chances:
        view = a_view(curve, requests)
        view.settled.budget = nodes = budget.nodes(view)
        tree = a_chain(nodes, chance)
        tree = budget.fit(view, tree) if nodes > 1 else tree
        lucky = int(random.geometric(1 - chance)) - 1
        right = min(lucky, tree.width - 1) + 1
        budget.observe(view, a_verdict(tree, right))
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
            view.settled.budget = 32
            judge.observe(view, a_verdict(judge.fit(view, tree), 1 + kept))
        return judge.fit(view, tree).width

    assert size(0.6, 0.05, kept=1, lesson=0.5) > size(0.6, 0.05, kept=1, lesson=0.0)
    assert size(0.1, 0.2, kept=0, lesson=0.2) == size(0.1, 0.2, kept=0, lesson=0.0) == 1


def a_chain(nodes: int, chance: float, rows: int = 1) -> DraftTree:
    """Its scores say that each guess is right with ``chance``."""
    tree = DraftTree.chain(torch.ones(rows, nodes, dtype=torch.long), torch.full((rows,), nodes))
    return attrs.evolve(tree, score=chance ** torch.arange(nodes, dtype=torch.float32).expand(rows, -1))


def settled(judge: Any, view: StepView, chance: float, steps: int, cap: int = 64) -> list[int]:
    """Sizes of the last steps, where every tree's guesses are right as its scores say on average."""
    widths = []
    for step in range(steps):
        view.settled.budget = nodes = min(judge.nodes(view), cap)
        tree = a_chain(nodes, chance)
        tree = judge.fit(view, tree) if nodes > 1 else tree
        kept = sum(chance**i for i in range(1, tree.width))
        judge.observe(view, a_verdict(tree, 1 + int(kept) + (step % 100 < 100 * (kept % 1))))
        widths.append(tree.width)
    return widths[steps // 2 :]


def test_a_call_in_which_nothing_can_be_guessed_begins_plainly() -> None:
    """What is hoped for before anything was kept is what the first tree promises."""

    def first(chance: float) -> int:
        view = a_view(a_curve(0.1), (Request([1], 99),))
        view.settled.budget = 32
        return ByScore().fit(view, a_chain(32, chance)).width

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


def test_a_capped_budget_still_learns_what_its_trees_are_worth() -> None:
    lies = [settled(Auto(), a_view(a_curve(0.2), (Request((1,)),)), chance=0.02, steps=100, cap=8)]
    assert np.mean(np.array(lies) == 1) > 0.8
    auto, view = Auto(), a_view(a_curve(0.02), (Request((1,)),))
    settled(auto, view, chance=0.9, steps=100, cap=8)
    steps, spent, kept, _ = auto._by_score._call(view).outlook.lately
    assert steps > 40
    assert kept > 3 * steps
    assert spent > steps


def test_a_new_call_does_not_spend_as_the_last_one_did() -> None:
    """After a text that repeats itself, one that cannot be guessed."""
    for again, least, most in ((False, 1, 6), (True, 12, 64)):
        judge, view = ByScore(), a_view(a_curve(0.05), (Request((1,)),))
        assert np.median(settled(judge, view, chance=0.95, steps=60)) >= 20
        following = view if again else a_view(a_curve(0.05), (Request((1,)),))
        following.settled.budget = judge.nodes(following)
        assert least <= judge.fit(following, a_chain(following.settled.budget, 0.2)).width <= most
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
        view.settled.budget = 8
        tree = a_chain(8, 0.5, rows=8)
        judge.fit(view, tree)
        verdict = a_verdict(tree, 1)
        verdict.host.length[:] = np.minimum(random.geometric(0.5, 8), 8)  # type: ignore[union-attr]
        for request, kept in zip(requests, verdict.host.length, strict=True):  # type: ignore[union-attr]
            request.accept_lengths.append(int(kept))
            request.tokens += [1] * int(kept)
        judge.observe(view, verdict)
    _, _, kept, promised = judge._call(view).outlook.lately
    assert kept / promised == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("ahead", ["in tokens", "in pace"])
def test_the_rows_that_have_most_steps_to_go_decide(ahead: str) -> None:
    quick, slow = Request((1,), limit=100), Request((2,), limit=100)
    if ahead == "in tokens":
        quick.tokens += [1] * 60
    else:
        quick.accept_lengths += [4] * 20
        slow.accept_lengths += [1] * 20
        quick.limit += 80
        slow.limit += 20  # so much of it is said
    for rich, expected in ((quick, 1), (slow, 16)):
        judge, view = ByScore(), attrs.evolve(a_view(a_curve(0.02), (quick, slow)), step=20)
        for _ in range(30):
            view.settled.budget = 64
            chances = torch.tensor([0.95 if request is rich else 0.0 for request in view.requests])
            tree = attrs.evolve(a_chain(64, 0.5, rows=2), score=chances[:, None] ** torch.arange(64.0))
            width = judge.fit(view, tree).width
            verdict = a_verdict(tree.head(width), 1)
            verdict.host.length[view.requests.index(rich)] = min(width, 15)  # type: ignore[union-attr]
            judge.observe(view, verdict)
        assert width == 1 if expected == 1 else width >= expected


def test_scores_that_are_no_chances_do_no_harm() -> None:
    judge, view = ByScore(), a_view(a_curve(0.05), (Request((1,)),))
    for wild in (np.inf, -np.inf, np.nan, -7.0, 1e30):
        view.settled.budget = 8
        judge.fit(view, attrs.evolve(a_chain(8, 0.5), score=torch.full((1, 8), wild)))
        judge.observe(view, a_verdict(a_chain(8, 0.5), 2))
    assert np.isfinite(judge._call(view).outlook.average).all()
    sizes = settled(judge, view, chance=0.6, steps=200)
    assert 4 <= np.median(sizes) <= 16


def test_an_average_that_has_not_been_told_of_for_long_is_not_believed() -> None:
    judge, view, rich = ByScore(), a_view(a_curve(0.001), (Request((1,)),)), 0.0
    for nodes, chance, steps in ((64, 0.99, 100), (8, 0.3, 150), (64, 0.3, 3)):
        for _ in range(steps):
            view.settled.budget = nodes
            judge.fit(view, a_chain(nodes, chance))
            rich = max(rich, judge._call(view).outlook.average[0, -1])
    assert judge._call(view).outlook.average[0, -1] < rich / 8, "as the last three trees say"


def test_steps_that_run_otherwise_have_costs_of_their_own() -> None:
    model = LlamaForCausalLM(LlamaConfig(**SMALL)).eval()
    for config in ({"pack": False}, {"compile": "static", "pack": False}, {"pack": True}):
        _, stats = decode(Decoder(model, DecodeConfig(drafter="none", budget=1, **config)), [[1, 2, 3]], 9)
        assert stats.step_costs
    curves = [curve_of(model, 1, *how, length=12) for how in (("off", False), ("static", False), ("off", True))]
    assert [curve.samples(1) for curve in curves] == [8, 8, 8]
