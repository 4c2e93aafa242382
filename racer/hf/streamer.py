"""Streamers: who decodes is not known yet when transformers shows them the prompt, and rows are not in step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from racer.step.request import Request


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


class InStep:
    """Shows a streamer one token of every row at a time, as plain decoding does: ``[B]``, when all have come so far.

    :param streamer: is put the tokens.
    :param requests: the rows.
    :param pad: what it is put for rows that have ended.
    """

    def __init__(self, streamer: Any, requests: Sequence[Request], pad: int) -> None:
        self._streamer = streamer
        self._rows: list[tuple[Request, list[int]]] = [(request, []) for request in requests]
        self._pad = pad
        self._shown = 0

    def add(self, row: int, token: int) -> None:
        """A row's next token."""
        self._rows[row][1].append(token)
        while (tokens := self._next()) is not None:
            self._shown += 1
            self._streamer.put(torch.tensor(tokens))

    def _next(self) -> list[int] | None:
        """What plain decoding would put next; None while a row is still on its way there, and at the end."""
        came = [tokens[self._shown] if len(tokens) > self._shown else None for _, tokens in self._rows]
        for (request, tokens), token in zip(self._rows, came, strict=True):
            if token is None and not (request.done and len(tokens) == len(request.emitted)):
                return None
        if all(token is None for token in came):
            return None
        return [self._pad if token is None else token for token in came]
