"""Steps of a model that takes no trees: a chain after the state of the last commit.

A state that has seen a wrong token cannot be taken back by one token, only to where it was noted. So a step scores, in
one pass, the tokens that were accepted since then (*carried*), the pending token and a chain of drafted ones. If all of
them are right, or none was drafted, the state stays and nothing is carried on; otherwise it goes back, and the accepted
tokens are carried in front of the next chain. Where all layers keep keys and values alone, wrong ones are cut off
instead.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch
from torch import Tensor

from racer.core.chain_cache import ChainCache
from racer.core.chain_runner import ChainRunner, whole_texts
from racer.engine.executor import StepOutcome, to_model_device
from racer.engine.strategy_set import StrategySet
from racer.engine.top_tokens import argmax_of, top_tokens
from racer.step.draft_tree import DraftTree
from racer.step.request import Request
from racer.step.stats import Stopwatch
from racer.step.view import StepView

MOST_CARRIED = 16
"""Tokens that are carried by all rows; more are committed by a pass of their own."""


@attrs.define(eq=False)
class ChainExecutor:
    """Runs the steps of a batch in transformers' own cache."""

    runner: ChainRunner
    cache: ChainCache
    watch: Stopwatch
    last_position: int
    """No token is emitted beyond it."""
    keeps_logits: bool = False
    """Whether the scores of emitted tokens are kept."""

    def pending(self, requests: Sequence[Request]) -> Tensor:
        ends = [[request.tokens[-1] for request in requests], [len(request.tokens) - 1 for request in requests]]
        return torch.tensor(ends, device=self.runner.model.device)

    def carried(self, requests: Sequence[Request]) -> int:
        """Tokens before the pending one that the next pass has to score again."""
        return max((self._behind(request) for request in requests if not request.done), default=1) - 1

    def run(self, view: StepView, strategies: StrategySet) -> StepOutcome:
        """Draft a chain, score it, verify it, fetch the verdict, and commit what the state allows."""
        phase, requests = self.watch.phase, view.requests
        with phase("draft"):
            budget = self._room(strategies.nodes(view), requests)
            tree, faults = strategies.draft(view, budget, self._chain)
        looks = self.runner.looks
        with phase("forward"):
            self._catch_up(requests)
            logits, fed, after = self._forward(tree, requests)
        with phase("verify"):
            top = top_tokens(strategies.needs, view.pipeline, view.do_sample, logits)
            verdict = strategies.verify(view, tree, logits, argmax_of(top, strategies.needs, logits))
            verdict.top_ids, verdict.top_probs = top
            host = verdict.to_host(tree, faults, top=strategies.needs.host)  # fetch: the step's only synchronisation
        with phase("commit"):
            right = [
                self._behind(request) - 1 + int(length) if on else fed
                for request, length, on in zip(requests, host.length, view.active, strict=True)
            ]
            self._commit(min(right), fed, after)
        steady = self.runner.looks == looks
        return StepOutcome(tree, verdict, budget, steady=steady, logits=logits if self.keeps_logits else None)

    def finish(self, requests: Sequence[Request]) -> None:
        """Leave the cache as plain decoding does: with all tokens but the last, and pad tokens behind rows that ended
        before others."""
        length = max(self._slots(request) for request in requests) - 1
        if length > self.cache.committed:
            texts = self._texts(requests, length)
            count = length - self.cache.committed
            _, self.cache.arguments = self.runner.forward(texts, self.cache, count, 1)
            self.cache.committed = length

    def _chain(self, view: StepView, tree: DraftTree | None) -> tuple[DraftTree, Tensor]:
        """A draft as it can be scored: whoever drafted it, a chain."""
        chain = tree if tree is None or tree.width == 1 else tree.best_path(tree.width)
        return to_model_device(view, chain)

    def _forward(self, tree: DraftTree, requests: Sequence[Request]) -> tuple[Tensor, int, dict[str, object]]:
        """Logits ``[B, N, V]`` of a chain's nodes, how many tokens were scored for each row, and the model's arguments
        if all of them are committed."""
        behind = [1 if request.done else self._behind(request) for request in requests]
        counts = [tree.width] * len(requests) if len(requests) == 1 else tree.count.tolist()
        fed = max(before + count - 1 for before, count in zip(behind, counts, strict=True))
        start = self.cache.committed
        texts = self._texts(requests, start + fed)
        nodes = torch.arange(tree.width, device=texts.device) + torch.tensor(behind, device=texts.device)[:, None] - 1
        if fed > min(behind):  # something was guessed
            board = torch.nn.functional.pad(texts[:, start:], (0, tree.width))
            texts[:, start:] = board.scatter(1, nodes, tree.tokens)[:, :fed]
            if not self.cache.crops:
                self.cache.mark()
        inside = nodes.clamp(max=fed - 1)
        first = min(behind) - 1
        logits, after = self.runner.forward(texts, self.cache, fed, fed - first)
        rows = torch.arange(len(requests), device=texts.device)[:, None]
        return (
            (logits if fed - first == tree.width and len(requests) == 1 else logits[rows, inside - first]),
            fed,
            after,
        )

    def _commit(self, right: int, fed: int, after: dict[str, object]) -> None:
        """Keep the state after the last pass if all rows' tokens in it are right, and otherwise go back."""
        if right >= fed:
            self.cache.arguments, self.cache.committed = after, self.cache.committed + fed
        elif self.cache.crops:
            self._crop(right)
        else:
            self.cache.back()

    def _crop(self, right: int) -> None:
        slots = self.cache.committed + right
        self.cache.crop(slots)
        self.cache.arguments, self.cache.committed = self.runner.arguments_after(self.cache, right), slots

    def _catch_up(self, requests: Sequence[Request]) -> None:
        """Commit what all rows carry, if it is much."""
        carried = min((self._behind(request) for request in requests if not request.done), default=1) - 1
        if carried > MOST_CARRIED:
            texts = self._texts(requests, self.cache.committed + carried)
            _, self.cache.arguments = self.runner.forward(texts, self.cache, carried, 1)
            self.cache.committed += carried

    def _room(self, nodes: int, requests: Sequence[Request]) -> int:
        carried = self.carried(requests)
        nodes = min(nodes, max(1, self.last_position + 1 - self.cache.committed - carried))
        return self.runner.plan.room(nodes, self.cache.committed + carried)

    def _texts(self, requests: Sequence[Request], length: int) -> Tensor:
        rows = [[*request.padding, *request.tokens] for request in requests]
        return whole_texts(rows, length, self.runner.call.pad, self.runner.model.device)

    def _slots(self, request: Request) -> int:
        return len(request.padding) + len(request.tokens)

    def _behind(self, request: Request) -> int:
        """Tokens of a row that are not committed: the pending one, and those that are carried."""
        return self._slots(request) - self.cache.committed
