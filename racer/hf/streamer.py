"""Streamers: who decodes is not known yet when transformers shows them the prompt."""

from __future__ import annotations

from typing import Any

from torch import Tensor


class HeldStreamer:
    """Keeps the prompt back until it is sure who decodes: the streamer must not be shown it twice.

    Stands between transformers, which puts the prompt, and the user's streamer.
    """

    def __init__(self, streamer: Any) -> None:
        self._streamer = streamer
        self._held: list[Tensor] | None = []

    def put(self, value: Tensor) -> None:
        if self._held is None:
            self._streamer.put(value)
        else:
            self._held.append(value)

    def release(self) -> None:
        """Pass on what was held, and everything from now on."""
        held, self._held = self._held or [], None
        for value in held:
            self._streamer.put(value)

    def end(self) -> None:
        self._streamer.end()
