"""Attention of few queries is torch's, up to rounding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from racer.core import few_queries
from racer.core.few_queries import FEW, attended_by_few
from racer.kernels.native.assembling import NotHere, team

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
pytestmark = pytest.mark.skipif(not team(), reason="needs GNU's OpenMP")


def parts(
    batch: int, heads: int, groups: int, nodes: int, slots: int, size: int, dtype: torch.dtype, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Query, key and value as models have them, not in rows, and a mask of which a node sees at least one slot."""
    generator = torch.Generator().manual_seed(seed)

    def some(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    query = some(batch, nodes, heads, size).transpose(1, 2)
    key, value = (some(batch, groups, slots + 5, size)[:, :, :slots] for _ in range(2))
    hidden = torch.rand(batch, 1, nodes, slots, generator=generator) < 0.4
    hidden[..., 0] = False
    mask = torch.zeros(batch, 1, nodes, slots, dtype=dtype).masked_fill(hidden, torch.finfo(dtype).min)
    return query, key, value, mask


def by_torch(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float | None) -> Tensor:
    shared = query.shape[1] // key.shape[1]
    key, value = (part.float().repeat_interleave(shared, 1) for part in (key, value))
    attended = F.scaled_dot_product_attention(query.float(), key, value, attn_mask=mask.float(), scale=scaling)
    return attended.transpose(1, 2)


@torch.no_grad()
def close(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float | None = None) -> None:
    got = attended_by_few(query, key, value, mask, scaling)
    assert got is not None
    assert got.is_contiguous()
    assert got.dtype == query.dtype
    tolerance = TOLERANCE[query.dtype]
    expected = by_torch(query, key, value, mask, scaling)
    torch.testing.assert_close(got.float(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@given(
    batch=st.integers(1, 3), groups=st.integers(1, 3), shared=st.integers(1, 5), nodes=st.integers(1, FEW),
    slots=st.one_of(st.integers(1, 90), st.integers(1, 400)), size=st.sampled_from([16, 32, 64, 80, 96, 128, 256]),
    seed=st.integers(0, 2**31),
    scaling=st.sampled_from([None, 0.3]),
)  # fmt: skip
def test_it_is_torchs(
    dtype: torch.dtype, batch: int, groups: int, shared: int, nodes: int, slots: int, size: int, seed: int,
    scaling: float | None,
) -> None:  # fmt: skip
    if scaling is not None:
        scaling = min(scaling, 2.7 * size**-0.5)  # scores of large heads would be as large as rounding shows in
    close(*parts(batch, shared * groups, groups, nodes, slots, size, dtype, seed), scaling)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("size", range(16, 257, 16))
def test_heads_of_all_sizes(size: int, dtype: torch.dtype) -> None:
    close(*parts(2, 4, 2, 5, 37, size, dtype))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_other_layouts(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, value, mask = parts(2, 6, 2, 7, 33, 32, dtype)
    close(query.contiguous(), key, value, mask)
    close(query, key.transpose(1, 2).contiguous().transpose(1, 2), value, mask)
    close(query, key[:1].expand(2, -1, -1, -1), value, mask)
    close(query, key, value, mask[:1])
    close(query, key, value, mask[:1].expand(2, -1, -1, -1))
    close(query, key, value, mask[:, :, :1].expand(-1, -1, 7, -1))
    wide = torch.zeros(2, 1, 7, 50, dtype=dtype)
    wide[..., :33] = mask
    close(query, key, value, wide[..., :33])
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    close(query, key, value, mask)


@pytest.mark.parametrize("hidden", [torch.finfo(torch.bfloat16).min, -float("inf")])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@torch.no_grad()
def test_who_sees_nothing_gets_numbers(dtype: torch.dtype, hidden: float) -> None:
    """Rows that nobody reads, and neighbours who see something are not disturbed."""
    query, key, value, mask = parts(1, 2, 1, 6, 40, 16, dtype)
    mask[:, :, 2] = hidden
    got, expected = attended_by_few(query, key, value, mask, None), by_torch(query, key, value, mask, None)
    assert got is not None
    assert got.isfinite().all()
    others = [node for node in range(6) if node != 2]
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(got[:, others].float(), expected[:, others], rtol=tolerance, atol=tolerance)


@torch.no_grad()
def test_what_is_no_number_stays_none() -> None:
    for name, wrong in (("query", "nan"), ("query", "inf"), ("key", "nan"), ("value", "nan")):
        query, key, value, mask = parts(1, 2, 2, 4, 20, 16, torch.float32)
        mask.zero_()
        {"query": query[0, 1, 2:3], "key": key[0, 1, 3:4], "value": value[0, 1, 3:4]}[name][:] = float(wrong)
        got, expected = attended_by_few(query, key, value, mask, None), by_torch(query, key, value, mask, None)
        torch.testing.assert_close(got, expected, equal_nan=True, rtol=1e-5, atol=1e-5)
        assert got is not None
        assert got.isnan().any()
        assert not got.isnan().all()


@torch.no_grad()
def test_large_scores_are_no_infinities() -> None:
    query, key, value, mask = parts(1, 2, 2, 4, 20, 16, torch.float32)
    close(query * 1e4, key * 1e3, value, mask)


def test_a_default_device_is_not_that_of_the_queries() -> None:
    query, key, value, mask = parts(1, 2, 1, 3, 8, 16, torch.float32)
    with torch.no_grad(), torch.device("meta"):
        got = attended_by_few(query, key, value, mask, None)
    torch.testing.assert_close(got, by_torch(query, key, value, mask, None))


def test_all_else_is_torchs() -> None:
    query, key, value, mask = given = parts(2, 4, 2, 5, 20, 32, torch.float32)
    with torch.no_grad():
        assert attended_by_few(*given, None) is not None
        others: dict[str, Any] = {
            "many": parts(1, 2, 2, FEW + 1, 20, 32, torch.float32),
            "odd": parts(1, 2, 2, 5, 20, 24, torch.float32),
            "large": parts(1, 2, 2, 5, 20, 272, torch.float32),
            "double": parts(1, 2, 2, 5, 20, 32, torch.float64),
            "half": parts(1, 2, 2, 5, 20, 32, torch.float16),
            "bool mask": (query, key, value, mask == 0),
            "mask of another type": (query, key, value, mask.double()),
            "mask of heads": (query, key, value, mask.expand(-1, 4, -1, -1)),
            "mask of other slots": (query, key, value, mask[..., 1:]),
            "values of another size": (query, key, value[..., :16], mask),
            "keys of another type": (query, key.bfloat16(), value, mask),
            "keys turned": (query, key.transpose(2, 3).contiguous().transpose(2, 3), value, mask),
            "heads that do not share": (query[:, :3], key, value, mask),
        }
        for name, other in others.items():
            assert attended_by_few(*other, None) is None, name
    assert attended_by_few(*given, None) is None, "gradients"
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert attended_by_few(*given, None) is None


@torch.no_grad()
def test_without_machine_code_it_is_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any) -> Any:
        raise NotHere("no threads")

    monkeypatch.setattr(few_queries, "attention", missing)
    assert attended_by_few(*parts(1, 2, 2, 5, 20, 32, torch.float32), None) is None
