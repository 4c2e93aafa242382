"""The answer to one request: one or several choices, as they are decoded, until the client or the clock ends it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence

import attrs

from racer.engine.continuous.stream import Completion, Stream
from racer.serve.errors import failed, timed_out, unavailable
from racer.serve.text import AnswerText
from racer.serve.tools import Piece, Reader


class Choice:
    """One text of an answer.

    :param index: its number in the answer.
    """

    def __init__(self, index: int, stream: Stream, text: AnswerText, reader: Reader) -> None:
        self.index, self.stream = index, stream
        self._text, self._reader = text, reader
        self.completion: Completion | None = None
        """Once it has ended."""

    async def pieces(self) -> AsyncIterator[list[Piece]]:
        """What each step makes certain; then what is left at its end.

        :raises ApiError: the engine was closed before it ended.
        :raises Exception: what the engine failed with.
        """
        async for chunk in self.stream:
            yield self._reader.read(self._text.add(chunk))
            if self._text.stopped:
                self.stream.cancel()  # what comes still is not read, and the loop ends with it
        self.completion = await self.stream.completion()
        if self.completion.finish == "cancelled" and not self._text.stopped:
            raise unavailable()
        yield self._reader.read(self._text.end()) + self._reader.end()

    @property
    def finish(self) -> str:
        """OpenAI's reason for its end."""
        assert self.completion is not None
        reason = "stop" if self._text.stopped else self.completion.finish
        return "tool_calls" if reason == "stop" and self._reader.called else reason


Event = tuple[Choice, list[Piece] | Exception | None]
"""Pieces of a choice; None: it has ended; or what it failed with."""
Events = asyncio.Queue[Event]


@attrs.define(eq=False)
class Answer:
    """All choices of a request.

    :param answers_of_prompt: choices that each of its prompts has, one behind the other.
    :param prompt_tokens: of all its prompts, each counted once.
    :param timeout: seconds from ``came`` until it is ended.
    :param came: when it was asked for, on the monotonic clock.
    """

    choices: Sequence[Choice]
    answers_of_prompt: int
    prompt_tokens: int
    timeout: float
    came: float = attrs.field(factory=time.monotonic)

    async def events(self) -> AsyncIterator[tuple[Choice, list[Piece] | None]]:
        """Pieces of the choices in the order of their coming; None at the end of each.

        All of them are cancelled if nobody asks further.

        :raises ApiError: the answer took too long, or the engine failed.
        """
        queue: Events = asyncio.Queue()
        feeding = [asyncio.create_task(_feed(choice, queue)) for choice in self.choices]
        left = len(self.choices)
        try:
            while left:
                choice, event = await self._in_time(queue)
                if isinstance(event, Exception):
                    raise failed(event)
                left -= event is None
                yield choice, event
        finally:
            self.cancel()
            for task in feeding:
                task.cancel()

    async def _in_time(self, queue: Events) -> Event:
        try:
            async with asyncio.timeout(self.came + self.timeout - time.monotonic()):
                return await queue.get()
        except TimeoutError:
            raise timed_out(self.timeout) from None

    def cancel(self) -> None:
        """End what has not ended."""
        for choice in self.choices:
            if not choice.stream.done:
                choice.stream.cancel()

    @property
    def completions(self) -> list[Completion]:
        """Of the choices that have ended."""
        return [choice.completion for choice in self.choices if choice.completion is not None]


async def _feed(choice: Choice, queue: Events) -> None:
    try:
        async for pieces in choice.pieces():
            queue.put_nowait((choice, pieces))
        queue.put_nowait((choice, None))
    except Exception as error:
        queue.put_nowait((choice, error))
