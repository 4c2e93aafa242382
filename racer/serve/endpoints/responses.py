"""Answers on their way to a client that may go away."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Awaitable
from contextlib import aclosing
from typing import Any, Protocol

import anyio
from sse_starlette import EventSourceResponse, ServerSentEvent
from sse_starlette.sse import SendTimeoutError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from racer.serve.answer import Answer
from racer.serve.errors import failed

log = logging.getLogger(__name__)

LINE_END = "\n"
"""Of events, as OpenAI writes them."""
GONE = 499
"""The client has closed the connection; nobody reads this, but it is counted."""


class Told(Protocol):
    """An answer in one of OpenAI's shapes."""

    @property
    def answer(self) -> Answer: ...

    async def whole(self) -> dict[str, Any]: ...

    def chunks(self) -> AsyncIterator[dict[str, Any]]: ...


class Events(EventSourceResponse):
    """A stream, whose answer is cancelled with it, also if it never begins.

    :param patience: seconds that a client may take to read an event.
    """

    def __init__(self, told: Told, patience: float) -> None:
        super().__init__(_events(told), sep=LINE_END, send_timeout=patience)
        self._answer = told.answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except SendTimeoutError:
            log.info("a client has not read its answer for %g s: it is ended", self.send_timeout)
        finally:
            self._answer.cancel()


async def respond(request: Request, told: Told, *, stream: bool) -> Response:
    """The answer, whole or as events. It is cancelled when the client goes away.

    :raises ApiError: it failed, or took too long, before a whole answer was there.
    """
    if stream:
        return Events(told, told.answer.timeout)
    try:
        whole = await unless_gone(request, told.whole())
    finally:
        told.answer.cancel()
    return Response(status_code=GONE) if whole is None else JSONResponse(whole)


async def unless_gone(request: Request, work: Awaitable[dict[str, Any]]) -> dict[str, Any] | None:
    """The outcome of ``work``; None, and an end to it, once the client has gone."""
    outcome: dict[str, Any] | None = None
    failure: Exception | None = None
    async with anyio.create_task_group() as group:

        async def watch() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            group.cancel_scope.cancel()

        group.start_soon(watch)
        try:
            outcome = await work
        except Exception as error:  # a group would hide it in another
            failure = error
        group.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return outcome


async def _events(told: Told) -> AsyncIterator[ServerSentEvent]:
    """As OpenAI's clients read them. What fails after the beginning is told as an event, and is the last one."""
    try:
        async with aclosing(told.chunks()) as chunks:  # type: ignore[type-var]  # it is a generator
            async for chunk in chunks:
                yield _event(chunk)
        yield ServerSentEvent(data="[DONE]", sep=LINE_END)
    except Exception as error:
        yield _event(failed(error).body)


def _event(data: dict[str, Any]) -> ServerSentEvent:
    """With escapes: some clients take the rarer line ends of Unicode for those of an event."""
    return ServerSentEvent(data=json.dumps(data, allow_nan=False, separators=(",", ":")), sep=LINE_END)
