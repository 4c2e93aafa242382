"""Which way products of few rows go, and what happens between them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from racer.core import fast_parts, small_parts
from racer.core.few_rows import FewRows, Looks
from racer.core.products import Product, Weight, by_packed, by_torch


def take(monkeypatch: pytest.MonkeyPatch, way: Product) -> None:
    """All products of few rows go one way, not the fastest: the packed one where there is a copy."""

    def product(self: FewRows, rows: Tensor, count: int, weight: Weight, looks: Looks) -> Tensor:
        return (by_torch if way is by_packed and weight.packed is None else way)(rows, weight)

    monkeypatch.setattr(FewRows, "product", product)


def listen_within(monkeypatch: pytest.MonkeyPatch, hear: Callable[[], object]) -> None:
    """``hear`` is called within each gated layer of a Llama, whether its gate is torch's code or ours."""
    silu, passed = nn.functional.silu, small_parts.passed

    def by_torchs(rows: torch.Tensor, inplace: bool = False) -> torch.Tensor:
        hear()
        return silu(rows, inplace)

    def by_ours(*gate: Any) -> torch.Tensor | None:
        result = passed(*gate)
        if result is not None:  # else torch's comes
            hear()
        return result

    monkeypatch.setattr("torch.nn.functional.silu", by_torchs)
    monkeypatch.setattr(fast_parts, "passed", by_ours)
