"""Who may ask, with what: keys, names, sizes, kinds of content. All of it before a body is read."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from racer.serve.errors import ApiError
from racer.serve.settings import ServiceSettings

OPEN = ("/", "/page", "/health", "/metrics")
"""Paths that need no key: the page, which asks for one, and what machines watch."""
POLICY = "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'"
"""What a page of ours may load and do: nothing of anybody else's."""
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
SWALLOWED = 16 * 2**20
"""Bytes of a body that is too large which are read all the same: a client that is still sending hears no answer."""


class Guard:
    """Refuses requests by their first lines, and bodies by their size; puts headers on every answer.

    The number of the key that came with a request is in ``scope["state"]["key"]``.
    """

    def __init__(self, app: ASGIApp, settings: ServiceSettings) -> None:
        self._app, self._settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        send = _with_headers(send)
        receive = self._in_time(receive)
        try:
            self._check_host(headers)
            scope.setdefault("state", {})["key"] = self._key(scope["path"], headers)
            _check_kind(scope, headers)
            length = headers.get("content-length", "0")
            if length.isdecimal() and int(length) > self._settings.max_body:
                await _swallow(receive, int(length))
                raise self._too_large()
        except ApiError as error:
            await error.response()(scope, receive, send)
            return
        await self._app(scope, self._limited(receive), send)

    def _check_host(self, headers: Headers) -> None:
        """A page of another name's must not reach a server that only this machine shall, though the name leads here."""
        host = headers.get("host", "")
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        if self._settings.hosts and name.lower() not in self._settings.hosts:
            raise ApiError(403, "This server does not answer under that name.", code="wrong_host")

    def _key(self, path: str, headers: Headers) -> int | None:
        keys = self._settings.api_keys
        if not keys or path in OPEN or path.startswith("/page/"):
            return None
        kind, _, given = headers.get("authorization", "").partition(" ")
        number = _matching(given.strip(), keys) if kind.lower() == "bearer" else None
        if number is None:
            lack = (
                "Incorrect API key provided." if given else "You didn't provide an API key: send it as a bearer token."
            )
            raise ApiError(401, lack, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
        return number

    def _in_time(self, receive: Receive) -> Receive:
        """Bodies of clients that stop sending. What comes behind a body, the client's leaving, may take its time."""
        end, whole = time.monotonic() + self._settings.timeout, False

        async def timed() -> Message:
            nonlocal whole
            if whole:
                return await receive()
            try:
                async with asyncio.timeout(end - time.monotonic()):
                    message = await receive()
            except TimeoutError:
                raise _too_slow(self._settings.timeout) from None
            whole = not message.get("more_body", False)
            return message

        return timed

    def _limited(self, receive: Receive) -> Receive:
        """Bodies that do not say how large they are."""
        taken = 0

        async def limited() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self._settings.max_body:
                await _swallow(receive, SWALLOWED)
                raise self._too_large()
            return message

        return limited

    def _too_large(self) -> ApiError:
        most = self._settings.max_body
        return ApiError(413, f"The body of a request may have {most} bytes at most.", code="request_too_large")


def _too_slow(seconds: float) -> ApiError:
    message = f"The body of the request had not come after {seconds:g} s."
    return ApiError(408, message, code="body_timeout", headers={"Connection": "close"})


def _matching(given: str, keys: Sequence[str]) -> int | None:
    """Which of ``keys`` it is. All are compared, so that the time says nothing."""
    same = [hmac.compare_digest(given.encode(errors="replace"), key.encode()) for key in keys]
    return same.index(True) if any(same) else None


def _check_kind(scope: Scope, headers: Headers) -> None:
    """A browser sends JSON to other sites only if these agree, other kinds of content unasked."""
    if scope["method"] != "POST":
        return
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        raise ApiError(415, "Send JSON, with the header 'Content-Type: application/json'.", code="wrong_content_type")


async def _swallow(receive: Receive, most: int) -> None:
    left, more = min(most, SWALLOWED), True
    while more and left > 0:
        message = await receive()
        left -= len(message.get("body", b""))
        more = message["type"] == "http.request" and message.get("more_body", False)


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return sending
