"""How a step runs: its forward pass, what drafters are to be shown, the one copy to the host, the commit.

:class:`DynamicExecutor` gives every tensor the size that the step needs;
:class:`racer.engine.static.executor.StaticExecutor` keeps shapes and addresses, so that the step can be captured. They
decode the same tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import attrs
import torch
from torch import Tensor

from racer.core.kv_cache import TreeCache
from racer.core.model_runner import ModelRunner
from racer.engine.strategies import StrategySet, take
from racer.kernels import vocab_search
from racer.step.draft_tree import DraftTree
from racer.step.request import LogitsPipeline, Needs, Request, StepView
from racer.step.verdict import HostVerdict, Verdict


class Executor(Protocol):
    """The acts of a step that depend on shapes. They are called in this order, once a step."""

    steady: bool
    """Whether the step took only the time that others of its size take."""

    def ends(self, requests: Sequence[Request]) -> Tensor:
        """``[2, B]`` int64, on the device: pending tokens and their positions."""

    def promise(self, view: StepView, strategies: StrategySet, nodes: int) -> tuple[DraftTree, Tensor] | None:
        """What :meth:`take` gives, where the drafter is to draft ``nodes`` nodes in :meth:`forward`; else None."""

    def take(self, view: StepView, tree: DraftTree | None) -> tuple[DraftTree, Tensor]:
        """See :data:`racer.engine.strategies.Take`. What it gives may be read after :meth:`forward`."""

    def forward(self, view: StepView, tree: DraftTree, alone: bool) -> Tensor:
        """Logits ``[B, N, V]`` of the tree that was taken.

        :param alone: whether the verifier is asked without anybody around it.
        """

    def look(self, view: StepView, tree: DraftTree, logits: Tensor) -> Cues:
        """What drafters are to be shown. A verifier may find there what it would search for."""

    def settle(self, view: StepView, tree: DraftTree, faults: Tensor, verdict: Verdict, shown: Cues) -> HostVerdict:
        """Bring the verdict to the host, with what drafters are shown: the step's only host synchronisation."""

    def commit(self, verdict: Verdict, advance: Sequence[int]) -> None:
        """Keep ``advance[b]`` nodes of each row's path."""


class Cues(NamedTuple):
    """What the model thinks comes next, as far as some drafter needs it."""

    ids: Tensor | None = None
    """``[B, N, k]`` the best next tokens of all nodes."""
    probs: Tensor | None = None
    """``[B, N, k]`` their probabilities."""


def cues(needs: Needs, pipeline: LogitsPipeline, do_sample: bool, logits: Tensor) -> Cues:
    """Of all nodes, by their ``logits [B, N, V]``."""
    batch, width, size = logits.shape
    if not needs.top_k:
        return Cues()
    flat = logits.reshape(-1, size)
    if not needs.probs:
        return Cues(vocab_search.top(flat, needs.top_k)[1].view(batch, width, -1))
    ids, probs = (pipeline.likely if do_sample else vocab_search.likely)(flat, needs.top_k)
    return Cues(ids.view(batch, width, -1), probs.view(batch, width, -1))


@attrs.define(eq=False)
class DynamicExecutor:
    """Tensors as large as the step needs, sliced by the host."""

    core: ModelRunner
    cache: TreeCache
    needs: Needs
    last_position: int
    """No token is emitted beyond it."""
    steady: bool = True

    def ends(self, requests: Sequence[Request]) -> Tensor:
        ends = [[request.tokens[-1] for request in requests], [len(request.tokens) - 1 for request in requests]]
        return torch.tensor(ends, device=self.core.model.device)

    def promise(self, view: StepView, strategies: StrategySet, nodes: int) -> tuple[DraftTree, Tensor] | None:
        return None

    def take(self, view: StepView, tree: DraftTree | None) -> tuple[DraftTree, Tensor]:
        return take(view, tree)

    def forward(self, view: StepView, tree: DraftTree, alone: bool) -> Tensor:
        return self.core.forward(tree, self.cache, self.last_position)

    def look(self, view: StepView, tree: DraftTree, logits: Tensor) -> Cues:
        shown = cues(self.needs, view.pipeline, view.do_sample, logits)
        if shown.ids is not None and vocab_search.first_is_best(logits, self.needs.top_k):
            view.settled.best = logits, shown.ids[..., 0]
        return shown

    def settle(self, view: StepView, tree: DraftTree, faults: Tensor, verdict: Verdict, shown: Cues) -> HostVerdict:
        verdict.top_ids, verdict.top_probs = shown
        return verdict.to_host(tree, faults, cues=self.needs.host)

    def commit(self, verdict: Verdict, advance: Sequence[int]) -> None:
        self.cache.commit(verdict.path, advance)
