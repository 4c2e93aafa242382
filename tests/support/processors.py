"""Logits processors of every kind: free of context, reading the prefix, with a memory."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    LogitsProcessor,
    MinPLogitsWarper,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)


class RowDependent(LogitsProcessor):
    """Reads everything that it is given, the whole prefix, and the row's number."""

    def __init__(self, first: int = 0) -> None:
        self.first = first

    def racer_rows(self, rows: int) -> list[RowDependent]:
        return [RowDependent(row) for row in range(rows)]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        rows = torch.arange(len(scores))[:, None] + self.first
        shift = (input_ids.sum(1, keepdim=True) * 31 + input_ids.shape[1] * 7 + rows * 3) % scores.shape[1]
        return scores + 1.5 * (torch.arange(scores.shape[1]) == shift)


class CountsCalls(LogitsProcessor):
    """Has a memory: right only if it is called once for each token, in order."""

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.seen += 1
        return scores + (torch.arange(scores.shape[1]) == self.seen % scores.shape[1])


CONTEXT_FREE: list[Any] = [
    TemperatureLogitsWarper(0.7),
    TemperatureLogitsWarper(1.8),
    TopKLogitsWarper(3),
    TopPLogitsWarper(0.8),
    MinPLogitsWarper(0.2),
]
PREFIX_READING: list[Any] = [RepetitionPenaltyLogitsProcessor(1.4), NoRepeatNGramLogitsProcessor(3)]
WARPERS = [TemperatureLogitsWarper(0.7), TopKLogitsWarper(9), TopPLogitsWarper(0.9), MinPLogitsWarper(0.05)]
