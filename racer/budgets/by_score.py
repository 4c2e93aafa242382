"""The size of trees that have scores."""

from __future__ import annotations

import attrs
import numpy as np
from numpy.typing import NDArray

from racer.budgets.base import SIZES, Budget
from racer.budgets.outlook import BELIEF, LAST, Outlook, slowest
from racer.step.draft_tree import DraftTree
from racer.step.request import Request
from racer.step.stats import StepStats
from racer.step.verdict import Verdict
from racer.step.view import StepView

_SMALLER, _DOUBLINGS = np.array((0, *SIZES[:-1])), np.log2(SIZES)
"""Of each size the next smaller one, and how often one node must be doubled for it."""
AHEAD = 2
"""Trees are asked for that are so many times as large as what was taken lately, ..."""
LEAST_ASKED = 8
"""... and never smaller ones."""
TREE = 0.01
"""In plain steps, what a step with any tree costs more at least, for it has to be drafted: a curve that says otherwise
is noise, and would have trees taken where nothing can be guessed."""


class ByScore(Budget):
    """The size that is worth most by the scores of this tree and the latest ones.

    A tree's first n scores add up to the accepted nodes that its n best are expected to give, so each tree tells of
    every smaller size without spending it. Text that has to be written anyway is written sooner by every token that
    this step gives, so a step of n nodes is worth

        expected tokens(n) - cost(n) * tokens per cost of the latest steps

    with costs in plain steps, and this is what is maximised, not the step's own rate: where this tree is poor, a plain
    step's bad rate does not excuse spending on it. The expectation has three parts. The scores of this tree (``own`` of
    it) and of the latest ones (the rest). Their honesty: how many nodes were accepted, against what the scores
    promised. And ``lesson``: rejected nodes teach the drafter what it will know later, which is in no score. Each
    doubling of the nodes is taken to add this share to the nodes that steps keep lately (at first, to what the tree
    promises): hardly anything where nothing is accepted. Both shares were found on forced texts
    (``benchmarks/budgets.py``); without them, steps that promise little get hardly a node, and the drafter misses what
    they would have taught.

    A padded batch pays for its widest row, so all rows get the same number of nodes. The batch is done when its slowest
    row is: those that have most steps to go settle the number together. In a batch that others join, all do.

    Each call starts anew. How much of the last text could be guessed says little of the next one: believing it cost 2
    to 5 % of the time on forced texts.

    Where nothing can be guessed, even drafting costs more than it brings: after a tree that does not pay, the next few
    steps decode plainly without asking for one: 1, 3, and then 7.

    :param own: weight of this tree's scores; the rest is the latest trees'.
    :param decay: weight of the latest trees' sums when a row's tree comes in.
    :param memory: weight of the steps so far when a step comes in.
    :param lesson: see above.
    :param rest: most steps without a tree after one that does not pay. With 31, batches missed where their text
        began to be worth a guess.
    """

    def __init__(
        self, own: float = 0.3, decay: float = 0.97, memory: float = 0.98, lesson: float = 0.05, rest: int = 7
    ) -> None:
        self._own, self._decay, self._memory, self._lesson, self._rest = own, decay, memory, lesson, rest
        self._calls: dict[int, _Call] = {}
        """By each of a batch's requests: several batches may be running, and rows come and go."""

    def _call(self, view: StepView) -> _Call:
        known = (self._calls.get(request.id) for request in view.requests)
        call = next((call for call in known if call is not None), None)
        call = call or _Call(Outlook(self._own, self._decay, self._memory))
        for request in view.requests:
            if request.id not in self._calls:
                self._calls[request.id] = call
                call.outlook.admit(request)
        return call

    def closed(self, request: Request) -> None:
        call = self._calls.pop(request.id, None)
        if call is not None:
            call.outlook.forget(request)

    def nodes(self, view: StepView) -> int:
        call = self._call(view)
        if call.resting > 0:
            call.resting -= 1
            return 1
        wanted = max(AHEAD * call.choice, LEAST_ASKED)
        return next((size for size in SIZES if size >= wanted), SIZES[-1])

    def fit(self, view: StepView, tree: DraftTree, nodes: int) -> DraftTree:
        assert tree.score is not None
        call = self._call(view)
        told = nodes > _SMALLER  # the last of them may be cut short by the budget
        active = [row for row, on in enumerate(view.active) if on]
        scores = np.where(tree.real.numpy(), tree.score.numpy(), 0.0)[active]
        call.outlook.hear(call.outlook.places(view, active), scores, told)
        costs = np.where(told, view.step_cost.hopeful(SIZES), np.inf)
        costs = np.maximum(costs / costs[0], 1 + TREE * (_DOUBLINGS > 0))
        if view.chain:
            costs = costs + self._carried(view, scores)
        size = SIZES[int(np.argmax(self._worth(call.outlook, view, costs)))]
        call.choice += (size - call.choice) / 5
        call.idle = min(2 * call.idle + 1, self._rest) if size == 1 and np.isfinite(costs[1]) else 0
        call.resting = call.idle
        return tree.head(size)

    def _carried(self, view: StepView, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """``[sizes]``: what chains of each size are expected to cost the next step, in plain steps: unless all of it is
        right, the state is that of before, and what was right is scored again in front of the next chain."""
        path = np.nan_to_num(scores).clip(0, 1)
        path[:, 0] = 1.0
        whole = np.minimum.accumulate(path, axis=1).min(0)[np.minimum(LAST, path.shape[1] - 1)]
        again = max(view.step_cost(2) / view.step_cost(1) - 1, 0.0)
        carried: NDArray[np.float64] = np.where(_DOUBLINGS > 0, (1 - whole) * again, 0.0)
        return carried

    def _worth(self, outlook: Outlook, view: StepView, costs: NDArray[np.float64]) -> NDArray[np.float64]:
        """Tokens that a step of each size gives beyond what others give in its time."""
        steps, spent, kept, _ = outlook.lately
        tokens = 1 + outlook.expected(outlook.places(view, slowest(view)))
        pace = max((steps + kept) / spent, 1) if steps else (tokens / costs).max()  # plain steps give 1
        belief = min(tokens[-1] - 1, BELIEF)  # before anything was kept, what this tree promises
        learned = self._lesson * (kept + belief) / (steps + 1) * _DOUBLINGS
        worth: NDArray[np.float64] = tokens + learned - pace * costs
        return worth

    def observe(self, view: StepView, verdict: Verdict, stats: StepStats) -> None:
        host, outlook = verdict.host, self._call(view).outlook
        assert host is not None
        width = host.tokens.shape[1]
        if width == 1:
            outlook.learn([], 0.0, 1, 1.0)
            return
        rows = slowest(view)
        cost = view.step_cost(width) / view.step_cost(1)  # in plain steps: what those take changes with the context
        kept = float(host.length[rows].mean()) - 1
        outlook.learn(outlook.places(view, rows), kept, width, cost)


@attrs.define(eq=False)
class _Call:
    """One batch, and how much is spent in it."""

    outlook: Outlook
    resting: int = 0
    """Steps that are still to go without a tree, ..."""
    idle: int = 0
    """... of so many."""
    choice: float = 16.0
    """About the size of the latest trees."""
