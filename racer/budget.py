"""How many nodes a step may score."""

from __future__ import annotations

import attrs
import numpy as np
from numpy.typing import NDArray

from racer.hookspecs import hookimpl
from racer.plugins import Registry
from racer.request import Request, StepView
from racer.tree import DraftTree
from racer.verdict import Verdict

SIZES = (1, 2, 4, 6, 8, 12, 16, 20, 24, 32, 40, 48, 64)
"""Sizes that ``auto`` chooses from."""
_SIZES, _SMALLER, _DOUBLINGS = np.array(SIZES), np.array((0, *SIZES[:-1])), np.log2(SIZES)
"""The same, the next smaller ones, and how often one node must be doubled for them: made once, as each step asks."""
AHEAD = 2
"""Trees are asked for that are so many times as large as what was taken lately, ..."""
LEAST_ASKED = 8
"""... and never smaller ones."""
LATEST = 16
"""Steps of a row by which its pace is judged."""
BELIEF = 2.0
"""Accepted nodes, as many as promised, on which the trust in a drafter rests before it has shown anything."""


def _zeros() -> NDArray[np.float64]:
    return np.zeros(len(SIZES))


class Budget:
    """Says how many nodes a step may score."""

    def nodes(self, view: StepView) -> int:
        """At least 1 (plain decoding), the root included."""
        raise NotImplementedError

    def fit(self, view: StepView, tree: DraftTree) -> DraftTree:
        """Cut the drafted trees to what pays; a node's children may not stay without it."""
        return tree

    def observe(self, view: StepView, verdict: Verdict) -> None:
        """Learn from a step."""

    def closed(self, request: Request) -> None:
        """Forget a request that has ended."""


class Fixed(Budget):
    """Always the same."""

    def __init__(self, nodes: int) -> None:
        self._nodes = nodes

    def nodes(self, view: StepView) -> int:
        return self._nodes


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
    doubling of the nodes is taken to add this share to the nodes that steps keep lately: hardly anything where nothing
    is accepted. Both shares were found on forced texts (``benchmarks/budgets.py``); without them, steps that promise
    little get hardly a node, and the drafter misses what they would have taught.

    A padded batch pays for its widest row, so all rows get the same number of nodes. The batch is done when its slowest
    row is: those that have most steps to go settle the number together.

    Each call starts anew. How much of the last text could be guessed says little of the next one: believing it cost 2
    to 5 % of the time on forced texts.

    Where nothing can be guessed, even drafting costs more than it brings: after a tree that does not pay, the next few
    steps decode plainly without asking for one.

    :param own: weight of this tree's scores; the rest is the latest trees'.
    :param decay: weight of the latest trees' sums when a row's tree comes in.
    :param memory: weight of the steps so far when a step comes in.
    :param lesson: see above.
    :param rest: steps without a tree after one that does not pay.
    """

    def __init__(
        self, own: float = 0.3, decay: float = 0.97, memory: float = 0.98, lesson: float = 0.05, rest: int = 7
    ) -> None:
        self._own, self._decay, self._memory, self._lesson, self._rest = own, decay, memory, lesson, rest
        self._calls: dict[int, _Call] = {}
        """By each of a call's requests: several calls may be running."""

    def _call(self, view: StepView) -> _Call:
        call = self._calls.get(view.requests[0].id)
        if call is None:
            call = _Call()
            self._calls.update((request.id, call) for request in view.requests)
        return call

    def closed(self, request: Request) -> None:
        self._calls.pop(request.id, None)

    def nodes(self, view: StepView) -> int:
        call = self._call(view)
        if call.resting > 0:
            call.resting -= 1
            return 1
        wanted = max(AHEAD * call.choice, LEAST_ASKED)
        return next((size for size in SIZES if size >= wanted), SIZES[-1])

    def fit(self, view: StepView, tree: DraftTree) -> DraftTree:
        call = self._call(view)
        told = view.settled.budget > _SMALLER  # the last of them may be cut short by the budget
        self._hear(call, view, tree, told)
        costs = np.where(told, view.step_cost.hopeful(SIZES), np.inf)
        size = SIZES[int(np.argmax(self._worth(call, costs / costs[0])))]
        call.choice += (size - call.choice) / 5
        call.resting = self._rest if size == 1 and np.isfinite(costs[1]) else 0
        return tree.head(size)

    def _hear(self, call: _Call, view: StepView, tree: DraftTree, told: NDArray[np.bool_]) -> None:
        """Take in a tree's scores, which tell of the sizes ``told``."""
        assert tree.score is not None
        rows = _slowest(view)
        scores = np.where(tree.real.numpy(), tree.score.numpy(), 0.0)[rows]
        scores[:, 0] = 0.0  # the root is no guess
        sums = np.nan_to_num(scores).clip(0, 1).mean(0).cumsum()  # plugins may score as they like
        call.gains = sums[np.minimum(_SIZES, len(sums)) - 1]
        call.seen *= self._decay ** len(rows)
        call.seen[told] += len(rows)
        call.average[told] += len(rows) / call.seen[told] * (call.gains - call.average)[told]

    def _worth(self, call: _Call, costs: NDArray[np.float64]) -> NDArray[np.float64]:
        """Tokens that a step of each size gives beyond what others give in its time."""
        steps, spent, kept, promised = call.lately
        honesty = min((kept + BELIEF) / (promised + BELIEF), 2.0)
        gains = self._own * call.gains + (1 - self._own) * np.maximum.accumulate(call.average)
        tokens = 1 + honesty * gains
        pace = max((steps + kept) / spent, 1) if steps else (tokens / costs).max()  # plain steps give 1
        learned = self._lesson * (kept + BELIEF) / (steps + 1) * _DOUBLINGS
        worth: NDArray[np.float64] = tokens + learned - pace * costs
        return worth

    def observe(self, view: StepView, verdict: Verdict) -> None:
        host, call = verdict.host, self._call(view)
        assert host is not None
        rows, width = _slowest(view), host.tokens.shape[1]
        kept, promised = float(host.length[rows].mean()) - 1, float(np.interp(width, _SIZES, call.gains))
        cost = view.step_cost(width) / view.step_cost(1)  # in plain steps: what those take changes with the context
        call.lately = self._memory * call.lately + (1.0, cost, kept, promised)


@attrs.define(eq=False)
class _Call:
    """What one call has shown so far."""

    resting: int = 0
    """Steps that are still to go without a tree."""
    gains: NDArray[np.float64] = attrs.field(factory=_zeros)
    """Expected accepted nodes of a row, by size: of the last tree, ..."""
    average: NDArray[np.float64] = attrs.field(factory=_zeros)
    """... and of the latest ones."""
    seen: NDArray[np.float64] = attrs.field(factory=_zeros)
    """Trees that each average rests on; old ones count less, whether later ones told of that size or not."""
    lately: NDArray[np.float64] = attrs.field(factory=lambda: np.zeros(4))
    """Of the latest steps: how many, what they cost in plain steps, and of a row the nodes kept and promised."""
    choice: float = 16.0
    """About the size of the latest trees."""


def _slowest(view: StepView) -> list[int]:
    """Rows that had about most steps to go when this one began, at what their latest ones kept."""
    left = {row: _steps_left(request, view.step) for row, request in enumerate(view.requests) if view.active[row]}
    most = max(left.values())
    return [row for row, steps in left.items() if steps >= 0.9 * most]


def _steps_left(request: Request, step: int) -> float:
    """Steps that a request had to go before the step of this number, of which it may know the outcome by now.

    It does not count: rows that are about equal would be told apart by their luck.
    """
    latest, since = request.accept_lengths[max(step - LATEST, 0) : step], request.accept_lengths[step:]
    return (request.remaining + sum(since)) * (len(latest) + 1) / (sum(latest) + 1)


class ByRecord(Budget):
    """For drafters whose trees have no scores: the size with most accepted tokens per millisecond, both measured.

    A tree's first n columns are the tree of budget n, so each verdict tells what every smaller budget would have
    accepted. These counts, and the cost of the nodes that the drafter really gave, are averaged over the steps in which
    it gave any: plainly at first, then with exponential decay. Steps in which it has nothing to say cost nothing and
    tell nothing, however long they go on, so what a copied passage brings is still known when the next one comes.
    Larger trees than the best are tried as often as ``waste`` of the time allows, so that a drafter that warms up, or a
    change of text, is noticed.
    """

    def __init__(self, decay: float = 0.95, waste: float = 0.03) -> None:
        self._decay = decay
        self._waste = waste
        self._sizes = np.array(SIZES)
        self._accepted = 1 + 0.5 * np.log2(self._sizes)  # hopeful: a cold drafter deserves a chance
        self._used = self._sizes.astype(float)
        """Nodes that the drafter gives when asked for each size, where it gives any."""
        self._share = 1.0
        """Steps in which it gives any, of those in which it is asked."""
        self._seen = np.full(len(SIZES), 4.0)
        """Verdicts that each average rests on; the prior counts as a few."""
        self._purse = 0.0
        """Milliseconds saved up for trying larger trees."""

    def nodes(self, view: StepView) -> int:
        return self._choose(view.step_cost.hopeful(np.round(self._used).astype(int).tolist()))

    def _choose(self, costs: NDArray[np.float64]) -> int:
        share = max(self._share, 0.01)
        accepted = share * np.maximum.accumulate(self._accepted) + 1 - share
        costs = share * costs + (1 - share) * costs[0]
        best = int(np.argmax(accepted / costs))
        larger = min(i for i, size in enumerate(SIZES) if size >= 2 * SIZES[best] or size == SIZES[-1])
        trial = max(larger, SIZES.index(8))  # from plain decoding, two nodes would show next to nothing
        self._purse += self._waste * costs[best]
        extra = costs[trial] - costs[best]
        if trial > best and self._purse >= extra:
            self._purse = 0.0
            return SIZES[trial]
        return SIZES[best]

    def observe(self, view: StepView, verdict: Verdict) -> None:
        host = verdict.host
        assert host is not None
        rows, asked = np.flatnonzero(view.active), view.settled.budget
        width = int(host.count[rows].max())
        if asked > 1:
            self._share += (1 - self._decay) * ((width > 1) - self._share)
        if width == 1:
            return
        # what a larger budget adds is unknown when the tree was full; a tree that was not full is all there is
        known = self._sizes <= asked if width >= asked else self._sizes > 0
        reached = np.mean([(host.path[row, : host.length[row], None] < self._sizes).sum(0) for row in rows], axis=0)
        self._seen[known] += 1
        step = np.maximum(1 / self._seen, 1 - self._decay)
        self._accepted[known] += (step * (reached - self._accepted))[known]
        self._used[known] += (step * (np.minimum(self._sizes, width) - self._used))[known]


class Auto(Budget):
    """Spends what pays, by the tree's scores (:class:`ByScore`) or else by the record (:class:`ByRecord`).

    What steps cost is learned from the steps themselves. Sizes that were not taken yet are tried where they might pay
    (:meth:`racer.costs.CostCurve.hopeful`), from a plain step upwards.
    """

    def __init__(self) -> None:
        self._by_score, self._by_record = ByScore(), ByRecord()
        self._scored = True
        """Whether the drafter's last tree had scores that can be read."""
        self._asked = 0

    @property
    def _judge(self) -> ByScore | ByRecord:
        return self._by_score if self._scored else self._by_record

    def nodes(self, view: StepView) -> int:
        self._asked = self._judge.nodes(view)
        return self._asked

    def fit(self, view: StepView, tree: DraftTree) -> DraftTree:
        # on an accelerator, reading scores would synchronise
        scored = tree.score is not None and tree.score.device.type == "cpu"
        if self._scored and not scored:
            self._scored, self._asked = scored, 0  # nobody learns from a tree that the other judge has asked for
            return tree.head(self._judge.nodes(view))
        self._scored = scored
        return self._judge.fit(view, tree)

    def observe(self, view: StepView, verdict: Verdict) -> None:
        if verdict.host is None or not any(view.active):
            return
        # Where somebody else said how many nodes, a tree's size tells nothing about the drafter, and its scores still
        # do; but a last token that needs no tree tells nothing at all.
        budget = view.settled.budget
        if budget == self._asked or (self._scored and budget > 1):
            self._judge.observe(view, verdict)

    def closed(self, request: Request) -> None:
        self._by_score.closed(request)


@hookimpl
def racer_register(registry: Registry) -> None:
    registry.budget("auto", Auto, summary="the size with most accepted tokens per measured millisecond")
