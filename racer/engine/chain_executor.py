"""Steps of a model that takes no trees: a chain after the state of the last commit.

A state that has seen a wrong token cannot be taken back by one token, only to where it was noted. So a step scores, in
one pass, the tokens that were accepted since then (*carried*), the pending token and a chain of drafted ones. Before
the next step, what was scored is compared with the texts as they are now. If it is what stands there, the state stays
and nothing is carried on; otherwise it goes back, and the accepted tokens are carried in front of the next chain. Where
all layers keep keys and values alone, wrong tokens are cut off instead.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from racer.core.chain_cache import ChainCache
from racer.core.chain_runner import ChainRunner, whole_texts
from racer.engine.executor import StepOutcome, pending_of, to_model_device, verified
from racer.engine.strategy_set import StrategySet
from racer.step.best_path import best_path
from racer.step.draft_tree import DraftTree
from racer.step.request import Request
from racer.step.stats import Stopwatch
from racer.step.view import StepView

MOST_CARRIED = 16
"""Tokens that are carried by all rows; more are committed by a pass of their own."""


@attrs.frozen(eq=False)
class _Scored:
    """A pass of which it is not known yet how much is right."""

    tokens: list[list[int]]
    """What it has scored, by row, all of one length."""
    arguments: dict[str, Any]
    """The model's, if all of it is."""


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
    _scored: _Scored | None = None
    _caught_up: bool = False
    """Whether the present step has committed carried tokens by a pass of their own."""

    def pending(self, requests: Sequence[Request]) -> Tensor:
        return pending_of(requests, self.runner.model.device)

    def carry(self, requests: Sequence[Request]) -> int:
        """Keep of the last pass what turned out right, and commit what all rows carry if it is much; how many tokens
        before the pending one must be scored again."""
        self._settle(requests)
        shared = min((self._behind(request) for request in requests if not request.done), default=1) - 1
        self._caught_up = shared > MOST_CARRIED
        if self._caught_up:
            self._advance(requests, shared)
        return self._carried(requests)

    def run(self, view: StepView, strategies: StrategySet) -> StepOutcome:
        """Draft a chain, score it, verify it, and fetch the verdict. What was right is committed before the next step,
        when it is known which tokens of it the texts have taken."""
        phase, requests = self.watch.phase, view.requests
        with phase("draft"):
            budget = self._room(strategies.nodes(view), requests)
            tree, faults = strategies.draft(view, budget, self._chain)
        looks = self.runner.looks
        with phase("forward"):
            logits, fed, after = self._forward(tree, requests)
        with phase("verify"):
            verdict = verified(view, strategies, tree, logits)
            host = verdict.to_host(tree, faults, top=strategies.needs.host)  # fetch: the step's only synchronisation
        rows = zip(requests, host.tokens.tolist(), strict=True)
        self._scored = _Scored([self._fed(request, nodes[: tree.width], fed) for request, nodes in rows], after)
        steady = self.runner.looks == looks and not self._caught_up
        return StepOutcome(tree, verdict, budget, steady=steady, logits=logits if self.keeps_logits else None)

    def finish(self, requests: Sequence[Request]) -> None:
        """Leave the cache as plain decoding does: with all tokens but the last, and pad tokens behind rows that ended
        before others."""
        length = max(self._slots(request) for request in requests) - 1
        self._settle(requests, length)
        self._advance(requests, length - self.cache.committed)

    def _chain(self, view: StepView, tree: DraftTree | None) -> tuple[DraftTree, Tensor]:
        """A draft as it can be scored: whoever drafted it, a chain."""
        return to_model_device(view, None if tree is None else self._alone(best_path(tree, tree.width)))

    def _alone(self, chain: DraftTree) -> DraftTree:
        """A chain, cut where a token must be the last of its pass; where states may have to carry it, to its root."""
        plan = self.runner.plan
        if plan.alone is None:
            return chain
        if plan.states:
            return chain.head(1)
        tokens = torch.where(chain.real, chain.tokens, 0)  # as it is scored: shorter rows are filled up
        lone = (tokens == plan.alone).any(0).nonzero().flatten().tolist()
        return chain.head(max(1, lone[0])) if lone else chain

    def _forward(self, tree: DraftTree, requests: Sequence[Request]) -> tuple[Tensor, int, dict[str, Any]]:
        """Logits ``[B, N, V]`` of a chain's nodes, how many tokens of each row were scored, and the model's arguments
        if all of them are committed."""
        behind = [1 if request.done else self._behind(request) for request in requests]
        start, fed, first = self.cache.committed, max(behind) + tree.width - 1, min(behind) - 1
        texts = self._texts(requests, start + fed)
        nodes = torch.tensor(behind, device=texts.device)[:, None] - 1 + torch.arange(tree.width, device=texts.device)
        if fed > min(behind):  # something was guessed, or stands in for what a row does not have yet
            done = torch.tensor([request.done for request in requests], device=texts.device)[:, None]
            tokens = torch.where(done, texts[:, start : start + tree.width], tree.tokens)  # done rows stay as they are
            texts[:, start:] = texts[:, start:].scatter(1, nodes, tokens)
            if not self.cache.crops:
                self.cache.mark()
        logits, after = self.runner.forward(texts, self.cache, fed, fed - first)
        if len(requests) > 1:
            rows = torch.arange(len(requests), device=texts.device)[:, None]
            logits = logits[rows, nodes - first]
        return logits, fed, after

    def _settle(self, requests: Sequence[Request], slots: int = sys.maxsize) -> None:
        """Keep the state after the last pass if it has seen what stands in the texts now, and otherwise go back.

        :param slots: the state must have seen no more than so many.
        """
        if (scored := self._scored) is None:
            return
        self._scored = None
        start, fed = self.cache.committed, len(scored.tokens[0])
        rights = [
            self._agreeing(tokens, request)
            for tokens, request in zip(scored.tokens, requests, strict=True)
            if self.runner.call.keeps_cache or not request.done
        ]
        right = min(rights, default=fed)
        right = min(right, slots - start)
        if right == fed:
            self.cache.arguments, self.cache.committed = scored.arguments, start + fed
        elif self.cache.crops:
            self.cache.crop(start + right)
            self.cache.arguments = self.runner.arguments_after(self.cache, right)
            self.cache.committed = start + right
        else:
            self.cache.back()

    def _advance(self, requests: Sequence[Request], count: int) -> None:
        """Let the state see the next ``count`` tokens of the texts."""
        if count > 0:
            texts = self._texts(requests, self.cache.committed + count)
            _, self.cache.arguments = self.runner.forward(texts, self.cache, count, 1)
            self.cache.committed += count

    def _agreeing(self, tokens: Sequence[int], request: Request) -> int:
        """How many of the scored tokens stand in a row's text: of one that goes on before its pending token, of one
        that is done with pad tokens behind it."""
        text = [*request.padding, *request.tokens][self.cache.committed :]
        text = text + [self.runner.call.pad] * len(tokens) if request.done else text[:-1]
        return next(
            (n for n, (ours, theirs) in enumerate(zip(tokens, text, strict=False)) if ours != theirs),
            min(len(tokens), len(text)),
        )

    def _carried(self, requests: Sequence[Request]) -> int:
        return max((self._behind(request) for request in requests if not request.done), default=1) - 1

    def _room(self, nodes: int, requests: Sequence[Request]) -> int:
        carried = self._carried(requests)
        nodes = min(nodes, max(1, self.last_position + 1 - self.cache.committed - carried))
        return self.runner.plan.room(nodes, self.cache.committed + carried)

    def _fed(self, request: Request, nodes: list[int], fed: int) -> list[int]:
        """What the last pass has scored of a row."""
        text = [*request.padding, *request.tokens][self.cache.committed :]
        return (text + ([] if request.done else nodes[1:]) + [self.runner.call.pad] * fed)[:fed]

    def _rows(self, requests: Sequence[Request]) -> list[list[int]]:
        return [[*request.padding, *request.tokens] for request in requests]

    def _texts(self, requests: Sequence[Request], length: int) -> Tensor:
        return whole_texts(self._rows(requests), length, self.runner.call.pad, self.runner.model.device)

    def _slots(self, request: Request) -> int:
        return len(request.padding) + len(request.tokens)

    def _behind(self, request: Request) -> int:
        """Tokens of a row that are not committed: the pending one, and those that are carried."""
        return self._slots(request) - self.cache.committed
