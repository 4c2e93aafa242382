"""The automatic budget on a simulated machine."""

from __future__ import annotations

import attrs
import numpy as np
import pytest
import torch

from racer import DecodeConfig, Decoder, DraftTree, Request
from racer.budgets import SIZES, Auto
from racer.budgets.by_score import AHEAD
from racer.step.cost_curve import REACH, CostCurve
from racer.testing import decode, decode_plainly, toy_model
from support.simulated_machine import a_curve, a_verdict, a_view, asked_for, settled, simulate


def test_a_last_step_of_one_node_teaches_nothing() -> None:
    auto = Auto()
    before = str((vars(auto._by_score), vars(auto._by_record)))
    auto._asked = 64
    view = a_view(CostCurve(), (Request((1,)),))
    told = asked_for(1)  # not what it asked for: one token was left
    auto.observe(view, a_verdict(DraftTree.root(torch.tensor([1])), 1), told)
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
        nodes = auto.nodes(view)
        given = min(nodes, 20) if speaks else 1
        tree = DraftTree.chain(torch.ones(1, given, dtype=torch.long), torch.tensor([given]))
        tree = auto.fit(view, tree, nodes)
        right = tree.width if step >= 400 else 1
        auto.observe(view, a_verdict(tree, right), asked_for(nodes))
        asked += [nodes] if speaks else []
    spent = 0.05 * (np.minimum(asked[20:80], 20) - 1).sum() / 300  # of plain decoding's time
    assert spent < 0.04, "while it is wrong"
    assert np.mean(np.array(asked[100:]) >= 16) > 0.9, "when it has been right for half a passage"


def test_scores_that_flatter_are_set_right() -> None:
    honest, flattered = (simulate(0.3, 0.1, scored=True, flattery=factor) for factor in (1.0, 4.0))
    assert abs(np.mean(honest) - np.mean(flattered)) <= 1.5


def test_a_change_of_text_is_followed() -> None:
    auto, curve, requests, widths = Auto(), a_curve(0.02), (Request((1,)), Request((2,))), []
    for step in range(600):
        view = a_view(curve, requests)
        nodes = auto.nodes(view)
        sure = step < 200 or step >= 400
        tree = DraftTree.chain(torch.ones(2, nodes, dtype=torch.long), torch.full((2,), nodes))
        score = (0.99 if sure else 0.01) ** torch.arange(nodes, dtype=torch.float32).expand(2, -1)
        tree = auto.fit(view, attrs.evolve(tree, score=score), nodes) if nodes > 1 else tree
        auto.observe(view, a_verdict(tree, tree.width if sure else 1), asked_for(nodes))
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


@pytest.mark.parametrize("hiccup", [4, 16, 64])
def test_a_slow_first_step_of_a_size_is_forgiven(hiccup: int) -> None:
    def cost(size: int) -> float:
        slow = size == hiccup and size not in seen
        seen.add(size)
        return (5 if slow else 1) * 10 * (1 + 0.01 * (size - 1))

    seen: set[int] = set()
    assert np.median(simulate(chance=0.9, slope=0.0, scored=True, new=True, cost=cost)[60:]) >= 20


def test_auto_through_the_decoder_reports_its_costs() -> None:
    model = toy_model()
    got, stats = decode(Decoder(model, DecodeConfig(drafter="racer", budget="auto")), [[1, 2, 3]], 60)
    assert got == decode_plainly(model, [[1, 2, 3]], 60)
    assert stats.step_costs
    assert all(cost > 0 for cost in stats.step_costs.values())


def test_a_plugins_budget_between_two_sizes_is_spent() -> None:
    view = a_view(a_curve(0.01), (Request((1,)),))
    tree = DraftTree.chain(torch.ones(1, 3, dtype=torch.long), torch.tensor([3]))
    fitted = Auto().fit(
        view, attrs.evolve(tree, score=torch.tensor([[1.0, 0.9, 0.8]])), 3
    )  # whatever auto has asked for
    assert fitted.width == 3


def test_a_capped_budget_still_learns_what_its_trees_are_worth() -> None:
    lies = [settled(Auto(), a_view(a_curve(0.2), (Request((1,)),)), chance=0.02, steps=100, cap=8)]
    assert np.mean(np.array(lies) == 1) > 0.8
    auto, view = Auto(), a_view(a_curve(0.02), (Request((1,)),))
    settled(auto, view, chance=0.9, steps=100, cap=8)
    steps, spent, kept, _ = auto._by_score._call(view).outlook.lately
    assert steps > 40
    assert kept > 3 * steps
    assert spent > steps
