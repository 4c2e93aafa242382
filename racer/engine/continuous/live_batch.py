"""The rows that are being decoded together: requests join between two steps, and leave when they end."""

from __future__ import annotations

import sys
import time
from collections.abc import Hashable, Iterator, Sequence

import attrs
from torch import Tensor

from racer.core.kv_cache import TreeCache
from racer.core.model_runner import ModelRunner
from racer.core.packed_weights import pack
from racer.core.subject import contents_of
from racer.core.support import Support
from racer.engine.batch import BatchState
from racer.engine.continuous.member import Member
from racer.engine.continuous.pipeline import Row, joined
from racer.engine.decoder import BatchDecoder
from racer.engine.executor import DynamicExecutor
from racer.engine.opening import FIRST_SCRATCH, open_batch
from racer.engine.spec import BatchSpec
from racer.step.request import Request, signed_seeds
from racer.step.stats import DecodeStats

LAPS = 16
"""Steps after which times are read."""
UNDISTURBED = 8
"""So many times longer are the pieces of a prompt for which nobody waits: each costs a little more than its tokens."""


@attrs.frozen
class StepReport:
    """What a step was."""

    rows: int
    nodes: int
    new_tokens: int
    seconds: float


class LiveBatch:
    """A batch whose rows are :class:`Member`s. It belongs to one thread.

    A request begins as a batch of its own, whose prompt is scored in pieces; then its keys and values move to a seat
    behind those of the others. A row that leaves makes room for the last one. A lone request stays where it began.
    """

    def __init__(self, decoder: BatchDecoder | None) -> None:
        self._maybe = decoder
        self.members: list[Member] = []
        self._state: BatchState | None = None
        self._runner: ModelRunner | None = None
        """Of the present busy period; the model is looked at anew in the next one."""
        self._support: Support | None = None
        self._model_was: Hashable = None
        """See :meth:`model_has_changed`."""

    @property
    def _decoder(self) -> BatchDecoder:
        assert self._maybe is not None  # without one, nothing joins
        return self._maybe

    @property
    def _cache(self) -> TreeCache:
        """Of the rows that are there."""
        assert self._state is not None
        assert isinstance(self._state.cache, TreeCache)
        return self._state.cache

    @property
    def slots(self) -> int:
        """Places in the cache that rows have taken."""
        return sum(len(member.request.tokens) for member in self.members)

    def model_has_changed(self) -> bool:
        """Whether the model is not what it was when this was last asked: then no states of it are of any use. Not asked
        while something is being decoded. What is written past torch, by ``.data`` or numpy, is not seen."""
        if self.members or self._runner is not None:
            return False
        was, self._model_was = self._model_was, contents_of(self._decoder.model)
        return was is not None and was != self._model_was

    def begin(self, member: Member, cached: list[Tensor], piece: int) -> Iterator[None]:
        """Score a request's prompt, one piece for each step of the iteration; with the last one it has its first token.

        :param cached: states of its first :attr:`Member.cached` tokens.
        :param piece: tokens of a piece while others are being decoded.
        :raises UnsupportedGeneration: the model takes no trees in so long a call.
        """
        decoder, spec = self._decoder, self._joined_spec([member])
        verifier, name = decoder.strategies.verifier_for(spec.do_sample)
        member.stats = DecodeStats(drafter=decoder.strategies.drafter_name, verifier=name)
        runner = self._runner_for(member)
        decoder.strategies.request_opened(member.request)
        member.opened = True
        support = self._support
        assert support is not None
        state = open_batch(runner, spec, verifier, member.stats, "off", support.vocab_size)
        member.state = state
        if cached:
            assert isinstance(state.cache, TreeCache)
            state.cache.reserve(member.cached)
            state.cache.put_row(0, cached)
            state.cache.append(member.cached)
        prompts = decoder.prefill(state, piece if self.members else UNDISTURBED * piece)
        for _ in prompts:
            member.stats.add(state.watch.lap())
            if prompts.first:
                decoder.begin(state, prompts)
            yield

    def join(self, member: Member, seats: int) -> None:
        """Take in a request whose prompt is scored.

        :param seats: rows to make room for, if there is none.
        """
        state, member.state = member.state, None
        assert state is not None
        if self._state is None:
            self._state = state
        else:
            assert isinstance(state.cache, TreeCache)
            self._cache.join(state.cache, seats, FIRST_SCRATCH)
        self.members.append(member)
        self._seat()

    def step(self) -> StepReport:
        """One step of all rows; tells their streams."""
        state, started = self._state, time.perf_counter()
        assert state is not None
        outcome = self._decoder.step(state)
        state.settle()
        if state.stats.steps % LAPS == 0:  # of events on CUDA, which a lap does not read
            spent = state.watch.read()
            for stats in state.own_stats:
                stats.add(spent)
        new = 0
        for place, member in enumerate(self.members):
            new += member.send(drafted=int(outcome.host.length[place]) - 1)
        return StepReport(len(self.members), outcome.tree.width, new, time.perf_counter() - started)

    def leave(self, gone: Sequence[Member]) -> None:
        """Let rows go; the last ones take their places."""
        if not gone:
            return
        order, size = list(range(len(self.members))), len(self.members) - len(gone)
        leaving = {place for place, member in enumerate(self.members) if member in gone}
        movers = [place for place in order[size:] if place not in leaving]
        order = [movers.pop() if place in leaving else place for place in order[:size]]
        self.members = [self.members[place] for place in order]
        if not self.members:
            self._state = None
            return
        self._cache.keep(order)
        self._seat()

    def cached_tokens(self, member: Member) -> list[int]:
        """The tokens of a row whose keys and values are there."""
        return member.request.tokens[: self._cache.lengths[self.members.index(member)]]

    def states_of(self, member: Member) -> list[Tensor]:
        """A copy of their keys and values."""
        place = self.members.index(member)
        return self._cache.row(place, self._cache.lengths[place])

    def drop(self) -> list[Member]:
        """Give up all rows: a step has failed, and nobody knows how far it got."""
        gone, self.members, self._state = self.members, [], None
        return gone

    def rest(self) -> None:
        """Nothing is being decoded: what the model's pass holds is given back."""
        runner, self._runner = self._runner, None
        if runner is not None:
            runner.close()

    def _runner_for(self, member: Member) -> ModelRunner:
        """Who scores this request, together with those that are there."""
        reach = max((other.slots for other in [member, *self.members]), default=0)
        support = self._decoder.supported(reach, padded=False)
        assert support.plan is not None
        plan = None if self._support is None else self._support.plan
        if self._runner is not None and support.plan is not plan:
            self.rest()
        self._support = support
        if self._runner is None:
            model, choice = self._decoder.model, self._decoder.config.pack
            self._runner = ModelRunner(model, support.plan, pack(model, choice, sys.maxsize))
        if self._state is not None and self._state.runner is not self._runner:
            self._state.runner = self._runner
            self._seat()
        return self._runner

    def _seat(self) -> None:
        """Go on with the rows as they are now."""
        state, members = self._state, self.members
        assert state is not None
        spec = self._joined_spec(members)
        state.spec, state.rows = spec, tuple(range(len(members)))
        state.pipeline, state.seeds = spec.pipeline, signed_seeds(spec.requests, self._decoder.model.device)
        state.verifier, name = self._decoder.strategies.verifier_for(spec.do_sample)
        state.stats = DecodeStats(drafter=self._decoder.strategies.drafter_name, verifier=name)
        state.own_stats = tuple(member.stats for member in members)
        state.last_position = max(member.slots for member in members) - 1
        assert isinstance(state.runner, ModelRunner)
        state.executor = DynamicExecutor(state.runner, self._cache, state.watch, state.last_position, spec.keeps_logits)

    def _joined_spec(self, members: Sequence[Member]) -> BatchSpec:
        """How the texts of all rows are chosen and ended: each by its own rules."""
        of = {member.request.id: member for member in members}

        def fails(request: Request, error: Exception) -> None:
            of[request.id].fail(error)

        def scored(row: int, logits: Tensor) -> None:
            members[row].scored(logits)

        members = tuple(members)
        rows = [Row(member.request, member.rules.pipeline, member.rules.do_sample) for member in members]
        return BatchSpec(
            requests=tuple(member.request for member in members),
            pipeline=joined(rows, fails),
            do_sample=any(row.do_sample for row in rows),
            stops=lambda request: of[request.id].ends(),
            stops_ahead=lambda request, path: of[request.id].ends_ahead(list(path)),
            fails=fails,
            scored=scored if any(member.logprobs is not None for member in members) else None,
            joined=True,
        )
