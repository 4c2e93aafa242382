"""Who is decoded next: requests wait, have their prompts scored piece by piece, and join the batch."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

import attrs
import torch
from torch import Tensor

from racer.engine.continuous.admission import Room
from racer.engine.continuous.figures import Counters, EngineFigures
from racer.engine.continuous.live_batch import LiveBatch, StepReport
from racer.engine.continuous.member import Member
from racer.engine.continuous.prefix_cache import PrefixCache
from racer.engine.decoder import BatchDecoder
from racer.errors import EngineClosed, EngineFull

Observer = Callable[[int, int, int, float], None]
"""``observer(rows, nodes, new_tokens, seconds)`` of each step."""


class Scheduler:
    """Runs one live batch, in a thread of its own when it is started.

    A turn scores one piece of one prompt, and then takes one step of all rows: nobody who is being decoded waits longer
    for those who come than one piece takes. Requests begin in the order in which they came.

    :param decoder: its strategies are used by this thread alone; None: all requests are decoded alone.
    :param room: how much may be decoded at once.
    :param max_waiting: requests that may wait.
    :param piece: tokens of a prompt that are scored at once.
    :param kept: states of requests that have ended.
    """

    def __init__(
        self, decoder: BatchDecoder | None, room: Room, max_waiting: int, piece: int, kept: PrefixCache
    ) -> None:
        self._decoder, self._room, self._max_waiting, self._piece, self._kept = decoder, room, max_waiting, piece, kept
        self._live = LiveBatch(decoder)
        self._waiting: deque[Member] = deque()
        self._joining: tuple[Member, Iterator[None]] | None = None
        self._alone: Member | None = None
        self._counters = Counters()
        self._observers: list[Observer] = []
        self._news = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Decode from now on, in a thread of its own."""
        self._thread = threading.Thread(target=self._run, name="racer-engine", daemon=True)
        self._thread.start()

    # -- from any thread ----------------------------------------------------------------------------------------------

    def submit(self, member: Member) -> None:
        """Put a request at the end of the queue.

        :raises RequestTooLong: it could never begin.
        :raises EngineFull: as many wait as may.
        :raises EngineClosed: nothing more is begun.
        """
        self._room.check(member.slots)
        with self._news:
            if self._closed:
                raise EngineClosed("the engine is closed")
            if len(self._waiting) >= self._max_waiting:
                raise EngineFull(f"{self._max_waiting} requests are waiting already: try again later")
            self._waiting.append(member)
            self._counters.submitted += 1
            self._news.notify_all()

    def wake(self) -> None:
        """Something has changed: a request is cancelled, say."""
        with self._news:
            self._news.notify_all()

    def observe(self, observer: Observer) -> None:
        """Have every step told to ``observer``, on the engine's thread."""
        self._observers.append(observer)

    def figures(self) -> EngineFigures:
        """What was done, and what is there now."""
        with self._news:
            busy = [member for member in (self._joining and self._joining[0], self._alone) if member]
            return EngineFigures(
                running=len(self._live.members) + len(busy),
                waiting=len(self._waiting),
                cache_tokens=self._live.slots + sum(len(member.request.tokens) for member in busy),
                max_tokens=self._room.max_tokens,
                kept_tokens=self._kept.tokens,
                **attrs.asdict(self._counters),
            )

    def close(self, drain: float | None = None) -> None:
        """Refuse new requests, let those that are there end within ``drain`` seconds, and cancel the others."""
        with self._news:
            self._closed = True
            self._news.notify_all()
            if drain:
                self._news.wait_for(lambda: not self.busy, drain)
            for member in self._all():
                member.cancelled = True
            self._news.notify_all()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    # -- the engine's thread ------------------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        return bool(self._live.members or self._waiting or self._joining or self._alone)

    def _all(self) -> list[Member]:
        joining = [self._joining[0]] if self._joining else []
        alone = [self._alone] if self._alone else []
        return [*self._live.members, *joining, *alone, *self._waiting]

    @torch.no_grad()
    def _run(self) -> None:
        while True:
            with self._news:
                self._news.notify_all()  # whoever waits for the end of all
                while not self.busy:
                    self._live.rest()
                    if self._closed:
                        return
                    self._news.wait()
            self.turn()

    def turn(self) -> None:
        """One piece of a prompt, and one step of all rows."""
        self._drop_cancelled()
        if self._joining is None:
            self._begin_next()
        if self._joining is not None:
            self._score_piece()
        if self._live.members:
            self._step()

    def _drop_cancelled(self) -> None:
        with self._news:
            gone = [member for member in self._waiting if member.ended]
            self._waiting = deque(member for member in self._waiting if not member.ended)
        for member in gone:
            self._end(member)
        if self._joining is not None and self._joining[0].ended:
            self._end_joining()
        self._let_go()

    def _begin_next(self) -> None:
        """Take the first of those who wait, if there is room."""
        with self._news:
            if not self._waiting:
                return
            member = self._waiting[0]
            if not self._room.fits([other.slots for other in [*self._live.members, member]]):
                return
            self._waiting.popleft()
            member.clock.began = time.monotonic()
            if member.spec is None:
                self._alone = member
            else:
                member.cached, states = self._find(member)
                self._joining = member, self._live.begin(member, states, self._piece)
        if self._alone is not None:
            self._decode_alone(self._alone)

    def _find(self, member: Member) -> tuple[int, list[Tensor]]:
        return self._kept.find(member.request.tenant, member.request.prompt)

    def _decode_alone(self, member: Member) -> None:
        """Decode a request that can share no batch; the others wait."""
        assert member.alone is not None
        try:
            member.alone(member)
        except Exception as error:
            member.fail(error)
        with self._news:
            self._alone = None
        self._end(member)

    def _score_piece(self) -> None:
        assert self._joining is not None
        member, pieces = self._joining
        try:
            next(pieces)
        except Exception as error:
            member.fail(error)
        if member.ended:
            self._end_joining()
        elif member.has_begun:
            self._counters.prompt_tokens += len(member.request.prompt)
            self._counters.cached_prompt_tokens += member.cached
            with self._news:
                self._joining = None
                self._live.join(member, self._room.seats(len(self._live.members) + 1))
            self._counters.new_tokens += member.send()

    def _end_joining(self) -> None:
        """A request has ended, or failed, before it could join: with its first token, say."""
        assert self._joining is not None
        member, _ = self._joining
        if member.has_begun:
            self._counters.prompt_tokens += len(member.request.prompt)
            self._counters.cached_prompt_tokens += member.cached
            self._counters.new_tokens += member.send()
        with self._news:
            self._joining = None
        member.state = None
        self._end(member)

    def _step(self) -> None:
        try:
            report = self._live.step()
        except Exception as error:
            for member in self._live.drop():
                member.fail(error)
                self._end(member)
            return
        self._count(report)
        self._let_go()

    def _count(self, report: StepReport) -> None:
        counters = self._counters
        counters.steps += 1
        counters.row_steps += report.rows
        counters.new_tokens += report.new_tokens
        counters.step_seconds += report.seconds
        for observer in self._observers:
            observer(report.rows, report.nodes, report.new_tokens, report.seconds)

    def _let_go(self) -> None:
        """Let rows that have ended leave the batch; what they have in the cache may be of use to later ones."""
        gone = [member for member in self._live.members if member.ended]
        for member in gone:
            if member.failure is None:
                self._kept.keep(member.request.tenant, *self._live.states_of(member))
        with self._news:
            self._live.leave(gone)
        for member in gone:
            self._end(member)

    def _end(self, member: Member) -> None:
        """Tell everybody that a request is over."""
        member.stats.close([member.request], member.clock.since(time.monotonic()), {})
        member.stats.first_token_seconds = member.clock.since(member.clock.first)
        if member.opened and self._decoder is not None:
            self._decoder.strategies.request_closed(member.request, member.stats)
        counters = self._counters
        counters.count_request(member.stats)
        if member.failure is not None:
            counters.failed += 1
        elif member.cancelled and not member.request.done:
            counters.cancelled += 1
        else:
            counters.finished += 1
        member.close()
