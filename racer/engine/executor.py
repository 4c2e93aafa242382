"""How a step runs: draft, forward, verify, fetch, commit.

:class:`DynamicExecutor` gives every tensor the size that the step needs;
:class:`racer.engine.static.executor.StaticExecutor` keeps shapes and addresses, so that the step can be captured. They
decode the same tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import attrs
import torch
from torch import Tensor

from racer.core.kv_cache import TreeCache
from racer.core.model_runner import ModelRunner
from racer.engine.strategy_set import StrategySet
from racer.engine.top_tokens import argmax_of, top_tokens
from racer.step.draft_tree import DraftTree
from racer.step.request import Request
from racer.step.stats import Stopwatch
from racer.step.verdict import HostVerdict, Verdict
from racer.step.view import StepView


@attrs.frozen(eq=False)
class StepOutcome:
    """What one step did. All of it is committed, and the verdict is on the host."""

    tree: DraftTree
    """As it was scored."""
    verdict: Verdict
    """With :attr:`~racer.step.verdict.Verdict.host`, the best next tokens that drafters are shown, and the faults of
    the draft."""
    budget: int
    """Nodes that the step might score."""
    steady: bool = True
    """Whether it took only the time that others of its size take."""
    learned: bool = False
    """Whether the drafter has observed within the step."""
    logits: Tensor | None = None
    """``[B, N, V]``, where the scores of emitted tokens are kept."""

    @property
    def host(self) -> HostVerdict:
        assert self.verdict.host is not None  # executors fetch before they return
        return self.verdict.host


class Executor(Protocol):
    """Runs the steps of one batch."""

    def pending(self, requests: Sequence[Request]) -> Tensor:
        """``[2, B]`` int64, on the device: pending tokens and their positions."""

    def run(self, view: StepView, strategies: StrategySet) -> StepOutcome:
        """Draft a tree, score it in one forward pass, verify it, fetch the verdict, and commit the accepted path."""


@attrs.frozen(eq=False)
class DynamicExecutor:
    """Tensors as large as the step needs, sliced by the host."""

    runner: ModelRunner
    cache: TreeCache
    watch: Stopwatch
    last_position: int
    """No token is emitted beyond it."""
    keeps_logits: bool = False
    """Whether the scores of emitted tokens are kept."""

    def pending(self, requests: Sequence[Request]) -> Tensor:
        return pending_of(requests, self.runner.model.device)

    def run(self, view: StepView, strategies: StrategySet) -> StepOutcome:
        phase = self.watch.phase
        with phase("draft"):
            budget = self.runner.plan.room(strategies.nodes(view), self.cache.end)
            tree, faults = strategies.draft(view, budget, to_model_device)
        looks = self.runner.looks
        with phase("forward"):
            logits = self.runner.forward(tree, self.cache, self.last_position)
        with phase("verify"):
            verdict = verified(view, strategies, tree, logits)
            host = verdict.to_host(tree, faults, top=strategies.needs.host)  # fetch: the step's only synchronisation
        with phase("commit"):
            self.cache.commit(verdict.path, advances(host, view))
        steady = self.runner.looks == looks
        return StepOutcome(tree, verdict, budget, steady=steady, logits=logits if self.keeps_logits else None)


def pending_of(requests: Sequence[Request], device: torch.device) -> Tensor:
    """``[2, B]`` int64: the last tokens of all rows and their positions, from what the host knows."""
    ends = [[request.tokens[-1] for request in requests], [len(request.tokens) - 1 for request in requests]]
    return torch.tensor(ends, device=device)


def verified(view: StepView, strategies: StrategySet, tree: DraftTree, logits: Tensor) -> Verdict:
    """The verdict on a scored tree, with the best next tokens that drafters are shown."""
    top = top_tokens(strategies.needs, view.pipeline, view.do_sample, logits)
    verdict = strategies.verify(view, tree, logits, argmax_of(top, strategies.needs, logits))
    verdict.top_ids, verdict.top_probs = top
    return verdict


def to_model_device(view: StepView, tree: DraftTree | None) -> tuple[DraftTree, Tensor]:
    """The draft as it can be scored, and its faults ``[B]``, unread: see :data:`racer.engine.strategy_set.Intake`."""
    if tree is None:
        return DraftTree.root(view.root), torch.zeros_like(view.root)
    tree = tree.to(view.device)
    faults = tree.faults(view.root, view.vocab_size)
    return tree.sound(faults, view.root), faults


def advances(host: HostVerdict, view: StepView) -> list[int]:
    """Nodes that each row commits."""
    return [int(length) if active else 0 for length, active in zip(host.length, view.active, strict=True)]
