"""What a device can do: bytes and multiplications a second, as measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from racer.bench.meters import now


def seconds_of(device: torch.device, call: Callable[[], Any], times: int = 3) -> float:
    """The best of a few: a floor is not to be raised by a hiccup."""
    spans = []
    for _ in range(times):
        start = now(device)
        call()
        spans.append(now(device) - start)
    return min(spans)


def bytes_per_second(device: torch.device) -> float:
    """By copying (every byte read and written) or by summing, whichever is faster."""
    source = torch.ones((2**30 if device.type == "cuda" else 2**28) // 4, device=device)
    target, size = torch.empty_like(source), source.numel() * 4
    copied = 2 * size / seconds_of(device, lambda: target.copy_(source))
    return max(copied, size / seconds_of(device, source.sum))


def flops_per_second(device: torch.device, dtype: torch.dtype) -> float:
    """Of a large square matrix product in this dtype."""
    size = 8192 if device.type == "cuda" else 2048
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / seconds_of(device, lambda: left @ right)
