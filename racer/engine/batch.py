"""A batch while it is decoded."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs
from torch import Tensor

from racer.core.chain_cache import ChainCache
from racer.core.chain_runner import ChainRunner
from racer.core.kv_cache import TreeCache
from racer.core.model_runner import ModelRunner
from racer.engine.executor import Executor, StepOutcome
from racer.engine.recording import RecordingPipeline
from racer.engine.spec import BatchSpec
from racer.engine.static.pool import DevicePool, PooledBatch
from racer.step.cost_curve import CostCurve
from racer.step.request import Request, add_token, end
from racer.step.stats import DecodeStats, Stopwatch
from racer.step.verdict import NO_TOKEN, HostVerdict, check_drawn
from racer.step.view import LogitsPipeline, StepView
from racer.verifiers.base import Verifier


@attrs.define(eq=False)
class Outbox:
    """Tokens that are emitted, and of which nobody was told yet."""

    emit: Callable[[int, int], None] | None
    """See :attr:`BatchSpec.emit`."""
    _waiting: list[tuple[int, int]] = attrs.field(factory=list)

    def add(self, row: int, token: int) -> None:
        self._waiting.append((row, token))

    def send(self) -> None:
        """Tell of them."""
        tokens, self._waiting = self._waiting, []
        if self.emit is not None:
            for row, token in tokens:
                self.emit(row, token)


@attrs.define(eq=False, kw_only=True)
class BatchState:
    """Which rows are still in the batch, what has been emitted, and how its steps run."""

    spec: BatchSpec
    runner: ModelRunner | ChainRunner
    verifier: Verifier
    vocab_size: int
    rows: tuple[int, ...]
    """Those of the spec that are still in the batch."""
    pipeline: LogitsPipeline
    seeds: Tensor
    """``[B]``, on the device."""
    cache: TreeCache | ChainCache
    executor: Executor
    pool: DevicePool
    pooled: PooledBatch | None
    """The static state that the call uses, if it does."""
    last_position: int
    """No token is emitted beyond it."""
    stats: DecodeStats
    watch: Stopwatch
    step_cost: CostCurve
    sends_late: bool
    """Whether tokens are sent while the next forward pass is at work: where a graph launches it, so that the host is
    free at once."""
    own_stats: tuple[DecodeStats, ...] = ()
    """Of each row alone, where rows have their own."""
    left: dict[int, list[Tensor]] = attrs.field(factory=dict)
    """Of rows that have left, by their numbers in the spec: what they had in the cache, if somebody wants it."""
    outbox: Outbox = attrs.field(default=attrs.Factory(lambda batch: Outbox(batch.spec.emit), takes_self=True))

    @property
    def requests(self) -> tuple[Request, ...]:
        return tuple(self.spec.requests[row] for row in self.rows)

    @property
    def done(self) -> bool:
        return all(request.done for request in self.spec.requests)

    @property
    def length(self) -> int:
        """Places that the longest row takes in the cache, padding included."""
        return max(self.slots(request) for request in self.requests)

    def slots(self, request: Request) -> int:
        """Places that a row takes in the cache with all of its tokens, padding included."""
        return self.spec.unseen + len(request.padding) + len(request.tokens)

    def view(self) -> StepView:
        """The state before the next step."""
        requests = self.requests
        root, position = self.executor.pending(requests)
        return StepView(
            requests=requests,
            active=tuple(not request.done for request in requests),
            root=root,
            position=position,
            vocab_size=self.vocab_size,
            pipeline=self.pipeline,
            do_sample=self.spec.do_sample,
            stop_tokens=self.spec.stop_tokens,
            stops_ahead=self.spec.stops_ahead,
            step_cost=self.step_cost,
            step=self.stats.steps,
            seeds=self.seeds,
            verifier=self.verifier,
            chain=isinstance(self.runner, ChainRunner),
            joined=self.spec.joined,
        )

    def emit(self, view: StepView, outcome: StepOutcome) -> tuple[int, ...]:
        """Append what a step gave to the rows' texts; how many tokens each got."""
        news = [outcome.host.accepted(row) if active else [] for row, active in enumerate(view.active)]
        if self.spec.foresee is not None:
            self.spec.foresee(list(zip(view.requests, news, strict=True)))
        emitted = tuple(self.append(row, tokens) for row, tokens in enumerate(news))
        if outcome.logits is not None:
            paths = zip(outcome.host.path, emitted, strict=True)
            self.keep_scores([outcome.logits[row, path[:count].tolist()] for row, (path, count) in enumerate(paths)])
        if not self.sends_late:
            self.outbox.send()
        return emitted

    def append(self, row: int, tokens: Sequence[int]) -> int:
        """Append to a row's text, token by token, until it ends; how many were appended.

        :raises RuntimeError: none can be drawn where the row has got to.
        """
        spec, request = self.spec, self.spec.requests[self.rows[row]]
        for number, token in enumerate(tokens, start=1):
            if token == NO_TOKEN and spec.settle is not None:
                end(request)  # it ran ahead: an error only if all rows get that far
                return number - 1
            if not self._is_drawn(request, token):
                return number - 1
            add_token(request, token)
            self.outbox.add(self.rows[row], token)
            stopped = spec.stops is not None and spec.stops(request)
            if token in spec.stop_tokens or request.remaining <= 0 or stopped:
                end(request)
                return number
        return len(tokens)

    def _is_drawn(self, request: Request, token: int) -> bool:
        """Whether it is a token; if not, the row fails alone where somebody is there to be told.

        :raises RuntimeError: nobody is.
        """
        try:
            check_drawn(token)
        except RuntimeError as error:
            if self.spec.fails is None:
                raise
            self.spec.fails(request, error)
            end(request)
            return False
        return True

    def keep_scores(self, logits: Sequence[Tensor] | Tensor) -> None:
        """Note the places ``[n, V]`` of the tokens that each row was just given, if their scores are wanted."""
        if self.spec.scored is not None:
            for row, places in zip(self.rows, logits, strict=True):
                if len(places):
                    self.spec.scored(row, places)
        if self.spec.record is None:
            return
        assert isinstance(self.pipeline, RecordingPipeline)
        for row, (request, places) in enumerate(zip(self.requests, logits, strict=True)):
            if len(places):
                self.spec.record.add(self.rows[row], request, places, self.pipeline, row)
        self.pipeline.forget()

    def count_nodes(self, host: HostVerdict, sources: tuple[str, ...], place: int, emitted: int) -> None:
        """Credit the nodes of one row's step, of which it has emitted so many tokens."""
        for stats in (self.stats, *self.own_stats[place : place + 1]):
            stats.count_nodes(host, sources, place, emitted)

    def settle(self) -> None:
        """A step is over, and everybody has observed it: end what can only be ended now."""
        if self.spec.settle is not None:
            self.spec.settle(self.spec.requests)

    def drop_finished(self) -> None:
        """Let finished rows leave the batch when the rest fits into a smaller power of two, so that it costs less.

        Other sizes are filled up with finished rows: each new size must learn what its steps cost. In static shapes
        nobody leaves, nor out of transformers' own cache.
        """
        left = [place for place, request in enumerate(self.requests) if not request.done]
        size = 1 << (len(left) - 1).bit_length()
        if size >= len(self.rows) or self.pooled is not None or isinstance(self.cache, ChainCache):
            return
        gone = [place for place in range(len(self.rows)) if place not in left]
        stay = sorted(left + gone[: size - len(left)])
        if self.spec.outside is not None:
            for place in gone[size - len(left) :]:
                self.left[self.rows[place]] = self.cache.row(place, self.slots(self.requests[place]) - 1)
        self.cache.keep(stay)
        self.rows = tuple(self.rows[place] for place in stay)
        self.pipeline, self.seeds = self.pipeline.of_rows(stay), self.seeds[stay]
