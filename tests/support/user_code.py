"""What users pass to ``generate``: processors, criteria and streamers of every temper."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, StoppingCriteria

from support.generate_models import EOS


class Favours(LogitsProcessor):
    """Stateless and token-wise: raises one token's score."""

    def __init__(self, token: int = 40, by: float = 3.0) -> None:
        self.token, self.by = token, by

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return scores + self.by * (torch.arange(scores.shape[1]) == self.token)


class ReadsPrefix(LogitsProcessor):
    """Stateless: what it favours depends on the row's text alone."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        shift = (input_ids[:, -3:].sum(1, keepdim=True) * 31 + input_ids.shape[1]) % scores.shape[1]
        return scores + 2.5 * (torch.arange(scores.shape[1]) == shift)


class ReadsRow(LogitsProcessor):
    """Stateless: what it favours depends on the row's number."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        favoured = torch.arange(len(scores))[:, None] * 5 + input_ids.shape[1] % 7
        return scores + 4 * (torch.arange(scores.shape[1]) == favoured)


class MixesRows(LogitsProcessor):
    """Hand-written guidance: each row's scores depend on the row before it."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return scores + 0.5 * scores.roll(1, 0)


class WritesInPlace(LogitsProcessor):
    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        scores[:, 5:60:2] -= 4
        return scores


class AnotherDtype(LogitsProcessor):
    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return (scores * 1.5 - 1).double()


class CountsCalls(LogitsProcessor):
    """Has a memory: right only if it is called once for each token, in order."""

    def __init__(self) -> None:
        self.got = 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.got += 1
        return scores + 4 * (torch.arange(scores.shape[1]) == self.got * 3 % scores.shape[1])


class CountsPerRow(LogitsProcessor):
    """A thinking budget: remembers for each row how often it wrote a token above 50."""

    def __init__(self, budget: int = 3) -> None:
        self.budget = budget
        self.got: list[int] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if not self.got:
            self.got = [0] * len(scores)
        for row, last in enumerate(input_ids[:, -1].tolist()):
            self.got[row] += last > 50
            if self.got[row] > self.budget:
                scores[row, 51:] = -torch.inf
        return scores


class AfterTokenProcessor(LogitsProcessor):
    """Raises at the n-th token."""

    def __init__(self, at: int, error: type[Exception] = RuntimeError) -> None:
        self.at, self.error, self.start = at, error, -1

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.start = input_ids.shape[1] if self.start < 0 else self.start
        if input_ids.shape[1] - self.start == self.at:
            raise self.error(f"the processor's own, at {self.at}")
        return scores


class Nans(LogitsProcessor):
    """All scores are NaN from the third token on."""

    def __init__(self, value: float = float("nan"), after: int = 2) -> None:
        self.value, self.after, self.start = value, after, -1

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.start = input_ids.shape[1] if self.start < 0 else self.start
        return torch.full_like(scores, self.value) if input_ids.shape[1] - self.start >= self.after else scores


class PairEnds(StoppingCriteria):
    """Stateless, a flag a row: two equal tokens, or one of a set."""

    def __init__(self, *tokens: int) -> None:
        self.tokens = tokens

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        ends = input_ids[:, -1] == input_ids[:, -2]
        for token in self.tokens:
            ends |= input_ids[:, -1] == token
        return ends


class EndsAll(StoppingCriteria):
    """One Python flag for the whole batch: the first row wrote a token above 60 twice."""

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> bool:
        return bool((input_ids[0, 24:] > 60).sum() > 2)


class CountsSteps(StoppingCriteria):
    """Has a memory: ends at its n-th call."""

    def __init__(self, at: int = 6) -> None:
        self.at, self.got = at, 0

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        self.got += 1
        return torch.full((len(input_ids),), self.got >= self.at)


class LimitsByRow(StoppingCriteria):
    """Row b ends after 3 + 2b new tokens."""

    def __init__(self) -> None:
        self.start = -1

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        self.start = input_ids.shape[1] - 1 if self.start < 0 else self.start
        return input_ids.shape[1] - self.start >= 3 + 2 * torch.arange(len(input_ids))


class TracksRows(StoppingCriteria):
    """As evaluation harnesses have it: remembers which of its rows wrote a token, and ends when all did."""

    def __init__(self, rows: int, *tokens: int) -> None:
        self.got, self.tokens = [False] * rows, tokens

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> bool:
        for row, done in enumerate(self.got):
            self.got[row] = done or int(input_ids[row, -1]) in self.tokens
        return all(self.got)


class SharedCount(LogitsProcessor):
    """A processor whose memory a criterion reads, too."""

    def __init__(self) -> None:
        self.got = 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.got += 1
        return scores + 50 * (torch.arange(scores.shape[1]) == self.got * 3 % scores.shape[1])


class EndsByCount(StoppingCriteria):
    def __init__(self, count: SharedCount) -> None:
        self.count = count

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        return torch.full((len(input_ids),), self.count.got >= 6)


class EndsAt(StoppingCriteria):
    """Stateless: ends all rows at a length."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        return torch.full((len(input_ids),), input_ids.shape[1] >= self.length)


class RaisesAt(StoppingCriteria):
    def __init__(self, length: int) -> None:
        self.length = length

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        if input_ids.shape[1] >= self.length:
            raise KeyError("the criterion's own")
        return torch.zeros(len(input_ids), dtype=torch.bool)


class ReadsScores(StoppingCriteria):
    """Needs ``output_scores``."""

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        return scores[-1].softmax(-1).amax(-1) > 0.9


class Collects:
    """A streamer."""

    def __init__(self, raises_at: int = -1) -> None:
        self.got: list[Any] = []
        self.raises_at = raises_at

    def put(self, value: Tensor) -> None:
        if len(self.got) == self.raises_at:
            raise BrokenPipeError("the streamer's own")
        self.got.append(value.tolist())

    def end(self) -> None:
        self.got.append("end")


def allowed(row: int, prefix: Tensor) -> list[int]:
    """For ``prefix_allowed_tokens_fn``: depends on the row and on the text."""
    return [EOS, 10 + row, 20 + row, 30 + int(prefix[-1]) % 20, 55 + len(prefix) % 9]
