"""Streamers: who decodes is not known yet when transformers shows them the prompt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor


class HeldStreamer:
    """Keeps everything back until it is sure who decodes: the streamer must not be shown a prompt twice.

    Stands between transformers, which puts the prompt, and the user's streamer.
    """

    def __init__(self, streamer: Any) -> None:
        self._streamer = streamer
        self._held: list[Callable[[], Any]] | None = []

    def put(self, value: Tensor) -> None:
        self._do(lambda: self._streamer.put(value))

    def end(self) -> None:
        self._do(self._streamer.end)

    def release(self) -> None:
        """Pass on what was held, and everything from now on."""
        held, self._held = self._held or [], None
        for act in held:
            act()

    def _do(self, act: Callable[[], Any]) -> None:
        if self._held is None:
            act()
        else:
            self._held.append(act)
