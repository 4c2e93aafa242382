"""One request of a continuous batch, from its submission to its end."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable

import attrs
import torch
from torch import Tensor

from racer.engine.batch import BatchState
from racer.engine.continuous.stream import Chunk, Clock, Completion, Stream, TokenScore
from racer.engine.spec import BatchSpec
from racer.step.request import Request
from racer.step.stats import DecodeStats

Alone = Callable[["Member"], None]
"""Decodes a request by itself, to its end: gives chunks to its stream, and says how it ended."""


@attrs.define(eq=False)
class Member:
    """A request, how its text is chosen and ended, and who is told of it. The engine's thread alone changes it."""

    request: Request
    spec: BatchSpec | None
    """Of this request alone; None if it cannot share a batch."""
    stream: Stream
    logprobs: int | None = None
    """The most likely tokens to tell of with each emitted one; None: no scores."""
    alone: Alone | None = None
    """Who decodes it where it cannot share a batch."""
    clock: Clock = attrs.field(factory=Clock)
    stats: DecodeStats = attrs.field(factory=lambda: DecodeStats("", ""))
    cancelled: bool = False
    """Asked for by any thread; heeded before the next step."""
    failure: Exception | None = None
    opened: bool = False
    """Whether strategies were told of it."""
    state: BatchState | None = None
    """While its prompt is being scored, by itself."""
    cached: int = 0
    """Tokens of its prompt whose keys and values were known."""
    stopped: bool = False
    """Whether it has ended by its own rules."""
    _sent: int = 0
    _scores: list[TokenScore] = attrs.field(factory=list)

    @property
    def rules(self) -> BatchSpec:
        """Its own spec, where it has one."""
        assert self.spec is not None
        return self.spec

    @property
    def slots(self) -> int:
        """Places in the cache that it may come to take."""
        return len(self.request.prompt) + self.request.limit

    @property
    def has_begun(self) -> bool:
        """Whether its prompt is scored, and its first token is there."""
        return len(self.request.tokens) > len(self.request.prompt)

    @property
    def ended(self) -> bool:
        """Whether it is over, in whatever way."""
        return self.request.done or self.cancelled or self.failure is not None

    def fail(self, error: Exception) -> None:
        """Note what has gone wrong; the first counts. What its frames hold, states and logits, is let go."""
        self.failure = self.failure or error
        traceback.clear_frames(error.__traceback__)

    def ends(self) -> bool:
        """Whether it ends with its last token, by its own rules."""
        if self.failure is not None:
            return True
        own, last = self.rules, self.request.tokens[-1]
        try:
            said = own.stops is not None and own.stops(self.request)
        except Exception as error:  # users' own code
            self.fail(error)
            return True
        self.stopped = said or last in own.stop_tokens
        return self.stopped

    def ends_ahead(self, path: list[int]) -> bool:
        """Whether it would end with the last token of ``path`` behind its text."""
        own = self.rules
        try:
            return path[-1] in own.stop_tokens or (own.stops_ahead is not None and own.stops_ahead(self.request, path))
        except Exception as error:  # users' own code
            self.fail(error)
            return True

    def scored(self, logits: Tensor) -> None:
        """Note the scores of its last ``n`` tokens, by ``logits [n, V]``."""
        if self.logprobs is None:
            return
        tokens = self.request.tokens[len(self.request.tokens) - len(logits) :]
        logs = torch.log_softmax(logits.float(), -1)
        values, ids = logs.topk(min(self.logprobs, logs.shape[-1]), dim=-1)
        own = logs[torch.arange(len(tokens)), torch.tensor(tokens)].tolist()
        best = [tuple(zip(*row, strict=True)) for row in zip(ids.tolist(), values.tolist(), strict=True)]
        self._scores += [TokenScore(*parts) for parts in zip(tokens, own, best, strict=True)]

    def send(self, drafted: int = 0) -> int:
        """Tell of the tokens that came since the last time, of which so many at most were drafted; how many came."""
        tokens = tuple(self.request.emitted[self._sent :])
        scores, self._scores = self._scores, []
        if not tokens or self.failure is not None:
            return 0
        self._sent += len(tokens)
        if self.clock.first is None:
            self.clock.first = time.monotonic()
        known = None if self.logprobs is None else tuple(scores[: len(tokens)])
        self.stream.put(Chunk(tokens, min(drafted, len(tokens)), known))
        return len(tokens)

    def decode_alone(self) -> None:
        """Decode it to its end, by itself; what goes wrong is its failure."""
        assert self.alone is not None
        try:
            self.alone(self)
        except Exception as error:
            self.fail(error)

    def close(self) -> None:
        """Say how it ended; whoever keeps the stream keeps nothing else."""
        self.state = self.alone = None
        if self.failure is not None:
            self.stream.fail(self.failure)
            return
        finish = "cancelled" if not self.request.done else "stop" if self.stopped else "length"
        self.stream.end(self._completion(finish))

    def _completion(self, finish: str) -> Completion:
        """How it ended, from what is known of its times."""
        clock = self.clock
        return Completion(
            tokens=tuple(self.request.emitted),
            finish=finish,
            stats=self.stats,
            prompt_tokens=len(self.request.prompt),
            cached_tokens=self.cached,
            queued_seconds=clock.since(clock.began),
            first_token_seconds=clock.since(clock.first),
            seconds=clock.since(time.monotonic()),
        )
