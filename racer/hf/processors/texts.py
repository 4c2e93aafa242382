"""The rows' texts as tensors, which logits processors read."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from racer.step.view import Prefix

ROOM = 256
"""Tokens for which there is room beyond the first ones; later it doubles."""


class Text:
    """One row's padding and tokens, growing with its request."""

    def __init__(self, device: torch.device) -> None:
        self._ids = torch.empty(0, dtype=torch.long, device=device)
        self._length = 0
        self.largest = -1
        """The largest id in it."""

    def of(self, prefix: Prefix) -> Tensor:
        """``[L]`` the ids of ``prefix``: to be read, as what stands in the request is not copied."""
        request = prefix.request
        if not self._length:
            self._append([*request.padding, *request.tokens])
        else:
            self._append(request.tokens[self._length - len(request.padding) :])
        known = self._ids[: self._length]
        return torch.cat([known, known.new_tensor(prefix.path)]) if prefix.path else known

    def _append(self, tokens: Sequence[int]) -> None:
        if not tokens:
            return
        end = self._length + len(tokens)
        if end > len(self._ids):
            room = max(end, ROOM)
            self._ids = torch.cat([self._ids[: self._length], self._ids.new_empty(end + room - self._length)])
        self._ids[self._length : end] = self._ids.new_tensor(tokens)
        self._length, self.largest = end, max(self.largest, *tokens)


class Texts:
    """What stands before each of M places.

    :param known: each batch row's text, as far as it was asked for; grows.
    :param rows: ``[M]`` the rows' numbers in the whole batch.
    """

    def __init__(
        self, known: dict[int, Text], rows: Sequence[int], prefixes: Sequence[Prefix], device: torch.device
    ) -> None:
        self._known, self.rows, self._prefixes, self._device = known, rows, prefixes, device
        self.lengths = [len(prefix) for prefix in prefixes]
        """Padding included."""

    @cached_property
    def ids(self) -> list[Tensor]:
        """``[L]`` each, padding included; to be read."""
        texts = [self._known.setdefault(row, Text(self._device)) for row in self.rows]
        return [text.of(prefix) for text, prefix in zip(texts, self._prefixes, strict=True)]

    def fits(self, vocab_size: int) -> bool:
        """Whether all ids are below ``vocab_size``; the embedding may have more tokens than the head."""
        texts = (self._known[row].largest for row in self.rows if self.ids)
        paths = (token for prefix in self._prefixes for token in prefix.path)
        return max(*texts, *paths, -1, -1) < vocab_size

    def groups(self) -> list[list[int]]:
        """Places of equally long prefixes."""
        by_length: dict[int, list[int]] = {}
        for place, length in enumerate(self.lengths):
            by_length.setdefault(length, []).append(place)
        return list(by_length.values())

    def stacked(self, places: Sequence[int]) -> Tensor:
        """``[m, L]`` ids of equally long prefixes, in a tensor of their own."""
        return torch.stack([self.ids[place] for place in places])
