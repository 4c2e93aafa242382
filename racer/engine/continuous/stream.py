"""What a request gives back: its tokens as they come, from any thread or from asyncio, and how it ended."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from types import TracebackType

import attrs

from racer.step.stats import DecodeStats


@attrs.frozen
class TokenScore:
    """What the model thought of an emitted token, before any logits processor."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()
    """The most likely tokens and their log probabilities, best first; as many as were asked for."""


@attrs.frozen
class Chunk:
    """What one step gave to a request."""

    tokens: tuple[int, ...]
    accepted: int = 0
    """So many of them, the first ones, were drafted and accepted; the prompt's own step drafts nothing."""
    scores: tuple[TokenScore, ...] | None = None
    """One for each token, where they were asked for."""


@attrs.frozen
class Completion:
    """A request that has ended."""

    tokens: tuple[int, ...]
    """All that were emitted, the end token included."""
    finish: str
    """``stop`` (an end token, a stop string, a criterion), ``length``, or ``cancelled``."""
    stats: DecodeStats
    """Of this request alone; its times are those of the steps that it was part of."""
    prompt_tokens: int
    cached_tokens: int
    """Tokens of the prompt that did not have to be scored, as an earlier request began alike."""
    queued_seconds: float
    """From submission until its prompt began to be scored."""
    first_token_seconds: float
    """From submission until its first token; NaN where there was none."""
    seconds: float
    """From submission to its end."""


class Stream:
    """One request's answer, while it is being decoded.

    ``for chunk in stream`` and ``async for chunk in stream`` give the steps as they come, from the first one on; each
    loop has its own place. They end when the request does, and raise what it failed with.

    :param cancel: asks the engine to end the request; called without arguments, from any thread.
    """

    def __init__(self, request_id: int, cancel: Callable[[], None]) -> None:
        self.request_id = request_id
        self._cancel = cancel
        self._chunks: list[Chunk] = []
        self._completion: Completion | None = None
        self._failure: BaseException | None = None
        self._came_from: TracebackType | None = None
        self._news = threading.Condition()
        self._listeners: list[Callable[[], None]] = []

    # -- for whoever has submitted it ---------------------------------------------------------------------------------

    @property
    def done(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self._completion is not None or self._failure is not None

    def cancel(self) -> None:
        """End it before its next step; what was emitted stays. Nothing happens if it has ended."""
        self._cancel()

    def result(self, timeout: float | None = None) -> Completion:
        """Wait for its end.

        :param timeout: in seconds.
        :raises TimeoutError: it has not ended by then, and goes on.
        :raises Exception: what it failed with.
        """
        with self._news:
            if not self._news.wait_for(lambda: self.done, timeout):
                raise TimeoutError(f"request {self.request_id} has not ended within {timeout} s")
        return self._ended()

    async def completion(self) -> Completion:
        """The same for asyncio.

        :raises Exception: what it failed with.
        """
        async for _ in self:
            pass
        return self._ended()

    def chunks(self, timeout: float | None = None) -> Iterator[Chunk]:
        """The steps as they come.

        :param timeout: most seconds between two of them.
        :raises TimeoutError: nothing came in that time; the request goes on.
        :raises Exception: what it failed with.
        """
        place = 0
        while True:
            with self._news:
                if not self._news.wait_for(lambda: len(self._chunks) > place or self.done, timeout):  # noqa: B023
                    raise TimeoutError(f"request {self.request_id} gave nothing for {timeout} s")
                fresh = self._chunks[place:]
            yield from fresh
            place += len(fresh)
            if not fresh:
                self._ended()
                return

    def __iter__(self) -> Iterator[Chunk]:
        return self.chunks()

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        loop, news = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            try:
                loop.call_soon_threadsafe(news.set)
            except RuntimeError:  # its loop has been closed: nobody listens
                self._listeners.remove(wake)

        place = 0
        with self._news:
            self._listeners.append(wake)
        try:
            while True:
                news.clear()
                fresh, done = self._chunks[place:], self.done
                for chunk in fresh:
                    yield chunk
                place += len(fresh)
                if done and place == len(self._chunks):
                    self._ended()
                    return
                if not fresh:
                    await news.wait()
        finally:
            with self._news:
                if wake in self._listeners:
                    self._listeners.remove(wake)

    def _ended(self) -> Completion:
        if self._failure is not None:
            raise self._failure.with_traceback(self._came_from)  # which each raise would make longer
        assert self._completion is not None
        return self._completion

    # -- for the engine -----------------------------------------------------------------------------------------------

    def put(self, chunk: Chunk) -> None:
        """A step's tokens."""
        with self._news:
            self._chunks.append(chunk)
            self._tell()

    def end(self, completion: Completion) -> None:
        """It has ended."""
        with self._news:
            self._completion = completion
            self._cancel = _nothing
            self._tell()

    def fail(self, failure: BaseException) -> None:
        """It has failed."""
        with self._news:
            self._failure, self._came_from = failure, failure.__traceback__
            self._cancel = _nothing
            self._tell()

    def _tell(self) -> None:
        self._news.notify_all()
        for listener in list(self._listeners):
            listener()


def _nothing() -> None:
    """There is nothing to cancel any more."""


@attrs.define
class Clock:
    """When a request came, began, and gave its first token; monotonic seconds."""

    came: float = attrs.field(factory=time.monotonic)
    began: float | None = None
    first: float | None = None

    def since(self, moment: float | None) -> float:
        """Seconds from its coming to ``moment``; NaN if that never was."""
        return float("nan") if moment is None else moment - self.came
