"""The process that serves: its socket, its signals, its log."""

from __future__ import annotations

import copy
import ipaddress
import signal
import socket
from collections.abc import Callable
from contextlib import ExitStack
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from sse_starlette.sse import AppStatus
from uvicorn.config import LOGGING_CONFIG

from racer.errors import ConfigError
from racer.serve.service import Service

AFTER_DRAINING = 5.0
"""Seconds for the last words, once all requests have ended or were ended."""


def bind(host: str, port: int) -> socket.socket:
    """The address, taken but not yet listened at: nobody is kept waiting while the model is loaded.

    :param port: 0 for any that is free.
    :raises ConfigError: it cannot be had.
    """
    try:
        (family, kind, _, _, address), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        with ExitStack() as undo:
            found = undo.enter_context(socket.socket(family, kind))
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(address)
            undo.pop_all()
    except (OSError, ValueError, OverflowError) as error:  # a name may be too long, or hold a NUL
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot listen at {host!r}, port {port}: {reason}") from error
    return found


def address_of(place: socket.socket) -> str:
    """As it is typed into a browser."""
    host, port = place.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def is_loopback(place: socket.socket) -> bool:
    """Whether only this machine can reach it, under whatever name it was asked for."""
    address = ipaddress.ip_address(place.getsockname()[0])
    inner = getattr(address, "ipv4_mapped", None)  # ::ffff:127.0.0.1
    return (inner or address).is_loopback


class Server(uvicorn.Server):
    """Told to stop, it takes nothing new, and ends when what runs has ended or its time is over.

    :param ready: called when requests are taken.
    """

    def __init__(self, app: FastAPI, level: str, ready: Callable[[], None]) -> None:
        self._service: Service = app.state.service
        self._ready = ready
        # the library would end all streams at once, where they shall be let end
        AppStatus.disable_automatic_graceful_drain()  # type: ignore[no-untyped-call]
        settings = self._service.settings
        most = settings.max_connections
        config = uvicorn.Config(
            app,
            log_level=level,
            log_config=_logging(),
            timeout_graceful_shutdown=int(settings.drain + AFTER_DRAINING),
            # it refuses the one with which there are so many
            limit_concurrency=None if most is None else most + 1,
            ws="none",
            server_header=False,
        )
        super().__init__(config)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal to stop; a second Ctrl-C waits for nothing."""
        self._service.close()
        super().handle_exit(signal.Signals(sig), frame)

    def stop(self) -> None:
        """The same without a signal; returns at once."""
        self._service.close()
        self.should_exit = True


def _logging() -> dict[str, Any]:
    """uvicorn's, for our own messages too."""
    config = copy.deepcopy(LOGGING_CONFIG)
    config["loggers"]["racer"] = {"handlers": ["default"], "level": "INFO", "propagate": False}
    return config
