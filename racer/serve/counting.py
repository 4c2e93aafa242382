"""HTTP requests, counted by endpoint and status."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from racer.serve.metrics import Metrics


class Counting:
    """Counts each answer as it begins.

    :param endpoints: paths that are counted by name; all others are ``other``, so that strangers cannot add names.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, endpoints: frozenset[str]) -> None:
        self._app, self._metrics, self._endpoints = app, metrics, endpoints

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        endpoint = scope["path"] if scope["path"] in self._endpoints else "other"
        begun = False

        async def counted(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                self._metrics.answered(endpoint, message["status"])
            await send(message)

        try:
            await self._app(scope, receive, counted)
        except Exception:
            if not begun:  # whoever stands outside will answer for it
                self._metrics.answered(endpoint, 500)
            raise
