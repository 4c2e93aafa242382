"""One row of one ``generate`` call."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import attrs
import torch
from torch import Tensor

_ids = itertools.count()
_GOLDEN = 0x9E3779B97F4A7C15
"""2**64 / golden ratio, odd."""


@attrs.define(eq=False)
class Request:
    """One row of one ``generate`` call, from its prompt to its last token."""

    prompt: tuple[int, ...]
    """The prompt without padding."""
    padding: tuple[int, ...] = ()
    """The padding ids to the left of the prompt; logits processors see them, as in ``generate``."""
    limit: int = 2**31
    """New tokens it may have."""
    seed: int = 0
    """Keys the noise of this row's sampled tokens."""
    id: int = attrs.field(factory=lambda: next(_ids))
    """Unique in this process."""
    tokens: list[int] = attrs.field(init=False)
    """Prompt and emitted tokens; the last one is the next root. Append-only while the request is open."""
    accept_lengths: list[int] = attrs.field(factory=list)
    """New tokens of each step, the bonus token included."""
    done: bool = False

    def __attrs_post_init__(self) -> None:
        self.tokens = list(self.prompt)

    @property
    def emitted(self) -> list[int]:
        return self.tokens[len(self.prompt) :]

    @property
    def remaining(self) -> int:
        return len(self.prompt) + self.limit - len(self.tokens)


def row_seed(seed: int, row: int) -> int:
    """The seed of one row of a call, ``0 <= row < 2**20``.

    No two rows of calls whose seeds are less than ``2**40`` apart share one: multiples of the golden ratio keep their
    distance (those of n successive numbers about ``2**64 / (n * sqrt(5))`` at least). With ``seed + row``, row 1 of one
    call would be row 0 of the next.
    """
    return (seed * _GOLDEN + row) % 2**64


def signed_seeds(requests: Sequence[Request], device: torch.device) -> Tensor:
    """``[B]`` the requests' seeds, as torch's int64 holds 64 bits."""
    return torch.tensor([(request.seed + 2**63) % 2**64 - 2**63 for request in requests], device=device)
