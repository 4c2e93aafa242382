"""Stopping criteria of users: with memories, limits of each row, one flag for all."""

from __future__ import annotations

from typing import Any

import torch
from transformers import StoppingCriteria


class AfterPair(StoppingCriteria):
    """Row-wise, but does not say so."""

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        return input_ids[:, -1] == input_ids[:, -2]


class DeclaredAfterPair(AfterPair):
    racer_row_wise = True


class RowLimits(StoppingCriteria):
    """Holds a limit of each batch row, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        self.asked.append(input_ids.tolist())
        return torch.tensor([input_ids.shape[1] >= 7 + 4 * row for row in range(len(input_ids))])


class OneFlag(StoppingCriteria):
    """Ends all rows at once, as evaluation harnesses do: when each has had a certain token."""

    def __init__(self, token: int = 3) -> None:
        self.token, self.had = token, None

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> Any:
        now = input_ids[:, -1] == self.token
        self.had = now if self.had is None else self.had | now
        return bool(self.had.all())


class CountsAsked(StoppingCriteria):
    """Ends by how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        self.asked += 1
        return torch.full((len(input_ids),), self.asked >= 9)
