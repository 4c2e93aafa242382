"""Who is decoded next: requests wait, have their prompts scored piece by piece, and join the batch."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from functools import partial

from racer.engine.continuous.admission import Room
from racer.engine.continuous.figures import Counters, EngineFigures, Observer
from racer.engine.continuous.live_batch import LiveBatch
from racer.engine.continuous.member import Member
from racer.engine.continuous.prefix_cache import PrefixCache
from racer.engine.decoder import BatchDecoder
from racer.errors import EngineClosed, EngineFull, told


class Scheduler:
    """Says what is done in each turn: see :class:`racer.engine.continuous.worker.Worker` for whose thread takes them.

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
        self.news = threading.Condition()
        """Told of whenever there may be something to do, or nothing any more."""
        self.closed = False
        """Whether nothing more is begun."""

    # -- from any thread ----------------------------------------------------------------------------------------------

    def submit(self, member: Member) -> None:
        """Put a request at the end of the queue.

        :raises RequestTooLong: it could never begin.
        :raises EngineFull: as many wait as may.
        :raises EngineClosed: nothing more is begun.
        """
        self._room.check(member.slots)
        with self.news:
            if self.closed:
                raise EngineClosed("the engine is closed")
            if len(self._waiting) >= self._max_waiting:
                raise EngineFull(f"{self._max_waiting} requests are waiting already: try again later")
            self._waiting.append(member)
            self._counters.submitted += 1
            self.news.notify_all()

    def wake(self) -> None:
        """Something has changed: a request is cancelled, say."""
        with self.news:
            self.news.notify_all()

    def observe(self, observer: Observer) -> None:
        """Have every step told to ``observer``, on the engine's thread."""
        self._counters.observers.append(observer)

    def forget(self) -> None:
        """Go on from no text that has ended by now."""
        self._kept.clear()

    def figures(self) -> EngineFigures:
        """What was done, and what is there now."""
        with self.news:
            return EngineFigures(
                running=len(self._live.members) + len(self._begun),
                waiting=len(self._waiting),
                cache_tokens=self._live.slots + sum(len(member.request.tokens) for member in self._begun),
                max_tokens=self._room.max_tokens,
                kept_tokens=self._kept.tokens,
                **self._counters.now(),
            )

    def shut(self) -> None:
        """Let nobody in any more."""
        with self.news:
            self.closed = True
            self.news.notify_all()

    def cancel_all(self) -> None:
        """End all requests before their next step."""
        with self.news:
            for member in self._all():
                member.cancelled = True
            self.news.notify_all()

    # -- the engine's thread ------------------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        return bool(self._live.members or self._waiting or self._joining or self._alone)

    @property
    def _begun(self) -> list[Member]:
        """Requests that have begun, and are not among the rows."""
        return [member for member in (self._joining and self._joining[0], self._alone) if member is not None]

    def _all(self) -> list[Member]:
        return [*self._live.members, *self._begun, *self._waiting]

    def rest(self) -> None:
        """Nothing is there to do: give back what the model's pass holds."""
        self._live.rest()

    def give_up(self, error: BaseException) -> None:
        """Nothing can go on: whoever waits is told, and nobody else is let in."""
        broken = EngineClosed(f"the engine has failed: {told(error)}")
        broken.__cause__ = error
        with self.news:
            self.closed = True
            members = self._all()
            self._live.drop()
            self._waiting.clear()
            self._joining = self._alone = None
            self.news.notify_all()
        for member in members:
            member.stream.fail(broken)

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
        with self.news:
            gone = [member for member in self._waiting if member.ended]
            self._waiting = deque(member for member in self._waiting if not member.ended)
        for member in gone:
            self._end(member)
        if self._joining is not None and self._joining[0].ended:
            self._end_joining()
        self._let_go()

    def _begin_next(self) -> None:
        """Take the first of those who wait, if there is room."""
        with self.news:
            there = [*self._live.members, *list(self._waiting)[:1]]
            if not self._waiting or not self._room.fits([member.slots for member in there]):
                return
            member = self._waiting.popleft()
            member.clock.began = time.monotonic()
            if member.spec is None:
                self._alone = member
            else:
                self._joining = member, self._pieces(member)
        if self._alone is not None:
            self._decode_alone(self._alone)

    def _pieces(self, member: Member) -> Iterator[None]:
        """Score a prompt from where an earlier text that began alike ended."""
        if self._live.model_has_changed():
            self._kept.clear()
        member.cached, states = self._kept.find(member.request.tenant, member.request.prompt)
        yield from self._live.begin(member, states, self._piece)

    def _decode_alone(self, member: Member) -> None:
        """Decode a request that can share no batch; the others wait."""
        member.decode_alone()
        self._counters.began(member)
        self._counters.new_tokens += len(member.request.emitted)
        with self.news:
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
            self._join(member)

    def _join(self, member: Member) -> None:
        """Let a request whose prompt is scored take its seat."""
        self._has_begun(member)
        try:
            self._live.join(member, self._room.seats(len(self._live.members) + 1))
        except Exception as error:  # no memory for all of them: nobody knows how far it got
            member.fail(error)
            self._end_joining()
            self._fail_all(error)
        else:
            with self.news:
                self._joining = None

    def _has_begun(self, member: Member) -> None:
        self._counters.began(member)
        self._counters.new_tokens += member.send()

    def _end_joining(self) -> None:
        """A request has ended, or failed, before it could join: with its first token, say."""
        assert self._joining is not None
        member = self._joining[0]
        if member.has_begun and not member.failure:
            self._has_begun(member)
        with self.news:
            self._joining = None
        self._end(member)

    def _step(self) -> None:
        try:
            report = self._live.step()
        except Exception as error:
            self._fail_all(error)
        else:
            self._counters.stepped(report)
            self._let_go()

    def _fail_all(self, error: Exception) -> None:
        for member in self._live.drop():
            member.fail(error)
            self._end(member)

    def _let_go(self) -> None:
        """Let rows that have ended leave the batch; what they have in the cache may be of use to later ones."""
        gone = [member for member in self._live.members if member.ended]
        for member in gone:
            tokens = self._live.cached_tokens(member)
            if member.failure is None and self._kept.takes(len(tokens)):
                with suppress(RuntimeError):  # no memory for a copy
                    self._kept.keep(member.request.tenant, tokens, partial(self._live.states_of, member))
        self._live.leave(gone)
        for member in gone:
            self._end(member)

    def _end(self, member: Member) -> None:
        """Tell everybody that a request is over."""
        member.stats.close([member.request], member.clock.since(time.monotonic()), {})
        member.stats.first_token_seconds = member.clock.since(member.clock.first)
        if member.opened and self._decoder is not None:
            self._decoder.strategies.request_closed(member.request, member.stats)
        self._counters.ended(member)
        member.close()
