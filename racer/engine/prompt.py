"""Before the first step: the prompts are scored, shown to drafters, and their first tokens chosen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import attrs
import torch
from torch import Tensor

from racer.core.kv_cache import TreeCache
from racer.core.prompt_pieces import PromptPiece
from racer.engine.batch import BatchState
from racer.engine.strategy_set import StrategySet
from racer.engine.top_tokens import top_tokens
from racer.step.draft_tree import DraftTree
from racer.step.stats import StepStats
from racer.step.verdict import Verdict, check_drawn


class Prefill:
    """The prompts of a batch on their way through the model: each piece of them is one step of ``for _ in prefill``.

    Drafters observe as much of them as they need.

    :param chunk: positions whose logits may exist at once, all rows together.
    :param wide: the same of pieces whose logits are not made; as many as the runner finds best if None.
    """

    def __init__(self, batch: BatchState, strategies: StrategySet, chunk: int, wide: int | None = None) -> None:
        self.first: list[int] = []
        """The first tokens, when all pieces are through."""
        self.logits = torch.empty(0)
        """``[B, V]`` by which they were chosen."""
        self._batch, self._strategies, self._chunk, self._wide = batch, strategies, chunk, wide

    def __iter__(self) -> Iterator[None]:
        """:raises RuntimeError: no first token can be drawn."""
        batch, needs = self._batch, self._strategies.needs
        requests, unseen, runner = batch.spec.requests, batch.spec.unseen, cast(Any, batch.runner)
        shown = -(-needs.prompt // len(requests)) if needs.top_k else 0
        prompts = torch.tensor([[*r.padding, *r.prompt] for r in requests], device=runner.model.device)
        rows, cached = len(prompts), batch.cache.end - unseen if isinstance(batch.cache, TreeCache) else 0
        columns, wide = (None if size is None else max(1, size // rows) for size in (self._chunk, self._wide))
        passes = runner.passes(prompts[:, cached:], batch.cache, columns, keep=max(shown, 1), wide=wide)
        while True:
            with batch.watch.phase("prefill"):
                piece = next(passes, _ALL_THROUGH)
                if piece is _ALL_THROUGH:
                    return
                if piece is not None:
                    self._took(piece, prompts, shown)
            yield

    def _took(self, piece: PromptPiece, prompts: Tensor, shown: int) -> None:
        """A piece whose logits are there."""
        batch, strategies = self._batch, self._strategies
        end = piece.start + piece.tokens.shape[1] - batch.spec.unseen
        if end < prompts.shape[1]:
            follow = prompts[:, end]
        else:
            view = batch.view()
            follow = strategies.verify(view, DraftTree.root(view.root), piece.logits[:, -1:]).next_token
            self.first, self.logits = follow.tolist(), piece.logits[:, -1]
            if batch.spec.do_sample and batch.spec.fails is None:  # before drafters see it
                for token in self.first:
                    check_drawn(token)
        if shown:
            _show(batch, strategies, piece, follow.clamp(min=0))


_ALL_THROUGH: Any = object()


def _show(batch: BatchState, strategies: StrategySet, piece: PromptPiece, follow: Tensor) -> None:
    """Let drafters observe a piece of prompt: a chain, all of it accepted, rows moved left over their padding."""
    padding = torch.tensor(batch.cache.padding, device=follow.device)
    width = piece.tokens.shape[1]
    skip = (padding - piece.start).clamp(0, width)
    columns = torch.arange(width, device=follow.device).expand(len(padding), -1)
    source = (columns + skip[:, None]).clamp(max=width - 1)
    count = width - skip
    tree = DraftTree.chain(piece.tokens.gather(1, source), count)
    verdict = Verdict(path=columns, length=count, next_token=follow.clone())  # of the prompts, which are not shown
    rows = torch.arange(len(padding), device=follow.device)[:, None]
    logits = piece.logits[rows, source] if skip.any() else piece.logits
    verdict.top_ids, verdict.top_probs = top_tokens(strategies.needs, batch.pipeline, batch.spec.do_sample, logits)
    verdict.to_host(tree, torch.zeros_like(count), top=strategies.needs.host)
    unseen = batch.spec.unseen
    places = tuple(max(piece.start - max(pad, unseen), 0) for pad in batch.cache.padding)
    position = (piece.start - padding.clamp(min=unseen)).clamp(min=0)
    view = attrs.evolve(batch.view(), root=tree.tokens[:, 0], position=position, places=places)
    stats = StepStats(nodes=0, budget=0, new_tokens=(0,) * len(padding), milliseconds={})
    strategies.step_over(view, tree, verdict, stats)
