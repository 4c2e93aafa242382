"""A simulated machine on which budgets are tried: what steps cost, and which guesses are right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import numpy as np
import torch

from racer import DraftTree, Request, StepView, Verdict
from racer.budgets import Auto
from racer.hf.processors import ProcessorPipeline
from racer.step.cost_curve import CostCurve


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
