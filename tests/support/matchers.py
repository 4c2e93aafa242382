"""Logits processors with a memory, which notice when they are not asked as in plain decoding."""

from __future__ import annotations

import torch
from transformers import LogitsProcessor


class Matcher(LogitsProcessor):
    """Like a grammar's: must be asked about consecutive prefixes, and never behind a stop token.

    What it allows depends on all that it has seen.
    """

    def __init__(self, stop: int | None = None) -> None:
        self.stop = stop
        self.seen: list[int] | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        assert input_ids.shape[0] == scores.shape[0] == 1
        ids = input_ids[0].tolist()
        if self.seen is not None:
            assert ids[:-1] == self.seen, "a token was skipped, or a guess was shown"
            assert ids[-1] != self.stop, "asked behind the end"
        self.seen = ids
        allowed = (torch.arange(scores.shape[1]) * 5 + sum(ids) * 3 + len(ids)) % 7 < 5
        return scores.masked_fill(~allowed, -torch.inf)


class Copyable(Matcher):
    """The same, for batches."""

    def racer_rows(self, rows: int) -> list[Matcher]:
        return [Matcher(self.stop) for _ in range(rows)]


class Budget(LogitsProcessor):
    """A thinking budget: after so many calls nothing but one token is allowed, in all rows."""

    def __init__(self, calls: int = 5, token: int = 2) -> None:
        self.left, self.token = calls, token

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.left -= 1
        if self.left >= 0:
            return scores
        return scores.masked_fill(torch.arange(scores.shape[1]) != self.token, -torch.inf)


class Guides(LogitsProcessor):
    """Hand-written guidance: every second row is the one before it without its context."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        guided = 1.5 * scores[::2] - 0.5 * scores[1::2]
        return guided.repeat_interleave(2, 0)
