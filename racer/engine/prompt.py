"""Before the first step: the prompts are scored, shown to drafters, and their first tokens chosen."""

from __future__ import annotations

from typing import Any

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


def prefill(batch: BatchState, strategies: StrategySet, chunk: int) -> tuple[list[int], Tensor]:
    """Score the prompts piece by piece, and let drafters observe as much of them as they need.

    :param chunk: positions whose logits may exist at once, all rows together.
    :return: the first tokens, and the logits ``[B, V]`` by which they were chosen.
    :raises RuntimeError: no first token can be drawn.
    """
    requests, needs, outside, unseen = batch.spec.requests, strategies.needs, batch.spec.outside, batch.spec.unseen
    shown = -(-needs.prompt // len(requests)) if needs.top_k else 0
    prompts = torch.tensor([[*r.padding, *r.prompt] for r in requests], device=batch.runner.model.device)
    first, last_logits = prompts[:, -1], torch.empty(0)
    with batch.watch.phase("prefill"):
        columns, cached = max(1, chunk // len(prompts)), 0
        if outside is not None:
            assert isinstance(batch.cache, TreeCache)
            outside.load(batch.cache)
            cached = outside.length - unseen
        runner: Any = batch.runner  # it and the cache are of one kind
        for piece in runner.prefill(prompts[:, cached:], batch.cache, columns, keep=max(shown, 1)):
            end = piece.start + piece.tokens.shape[1] - unseen
            if end < prompts.shape[1]:
                follow = prompts[:, end]
            else:
                view = batch.view()
                last = DraftTree.root(view.root)
                first = follow = strategies.verify(view, last, piece.logits[:, -1:]).next_token
                last_logits = piece.logits[:, -1]
                if batch.spec.do_sample:  # before drafters see it
                    for token in first.tolist():
                        check_drawn(token)
            if shown:
                _show(batch, strategies, piece, follow)
    return first.tolist(), last_logits


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
