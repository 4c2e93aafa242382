"""Whether a weight is still what it was: certainly between calls, and cheaply within one."""

from __future__ import annotations

from typing import Any

import torch
import xxhash
from torch import Tensor

Contents = tuple[torch.dtype, torch.Size, bytes]
"""What tells whether a weight holds the same numbers."""


class WeightCopy:
    """A weight that was looked at, and its packed copy, if there is one."""

    __slots__ = ("packed", "place", "version", "weight")

    def __init__(self, weight: Tensor) -> None:
        self.weight, self.version, self.place = weight, weight._version, weight.data_ptr()
        self.packed: Tensor | None = None

    def is_of(self, weight: Tensor) -> bool:
        """Whether ``weight`` is still the one, and nothing was written to it that torch was told of."""
        return weight is self.weight and weight._version == self.version and weight.data_ptr() == self.place


def contents_of(weight: Tensor) -> Contents:
    """What a weight holds, by a hash of every byte."""
    numbers: Any = weight.view(-1).view(torch.uint8).numpy()
    return weight.dtype, weight.shape, xxhash.xxh3_128_digest(numbers)
