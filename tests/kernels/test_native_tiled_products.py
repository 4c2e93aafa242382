"""Products in the processor's tiles, beside the definition in float64."""

from __future__ import annotations

import ctypes

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from racer.kernels.native.assembling import host_has
from racer.kernels.native.tiled_products import tile_product, tiles_here
from racer.kernels.native.tiles import SIDE, STEP

pytestmark = pytest.mark.skipif(not tiles_here(), reason="needs a processor with AMX, Linux, and GNU's OpenMP")


def tiled(rows: Tensor, weight: Tensor, bias: Tensor | None, threads: int = 1) -> Tensor:
    outputs, inputs = weight.shape
    static = (ctypes.c_int64 * 4)(weight.data_ptr(), 0 if bias is None else bias.data_ptr(), outputs, inputs)
    guarded = torch.full((len(rows) + 1, outputs), 7.5, dtype=torch.bfloat16)
    tile_product()(ctypes.addressof(static), rows.data_ptr(), len(rows), guarded.data_ptr(), threads)
    assert (guarded[-1] == 7.5).all(), "nothing is written beyond the result"
    return guarded[:-1]


@given(
    count=st.one_of(st.integers(1, 70), st.integers(1, 300)), outputs=st.integers(1, 20), inputs=st.integers(1, 9),
    bias=st.booleans(), size=st.sampled_from([1.0, 1e15, 1e-15]), seed=st.integers(0, 2**31),
)  # fmt: skip
def test_they_are_right_with_any_number_of_rows_and_threads(
    count: int, outputs: int, inputs: int, bias: bool, size: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = (size * torch.randn(count, STEP * inputs, generator=generator)).bfloat16()
    weight = torch.randn(SIDE * outputs, STEP * inputs, generator=generator).bfloat16()
    added = torch.randn(SIDE * outputs, generator=generator).bfloat16() if bias else None
    got = tiled(rows, weight, added)
    expected = F.linear(rows.double(), weight.double(), None if added is None else added.double())
    error = rows.double().abs() @ weight.double().abs().t() * 2**-20 + expected.abs() * 2**-8 + 1e-30
    assert ((got.double() - expected).abs() <= error).all()
    assert torch.equal(tiled(rows, weight, added, threads=3), got)
    for row in range(0, count, 17):
        assert torch.equal(tiled(rows[row : row + 1], weight, added), got[row : row + 1]), (
            "its neighbours are of no matter"
        )


def test_numbers_that_are_none_and_infinities_are_as_torchs() -> None:
    rows, weight = torch.ones(20, 64).bfloat16(), torch.ones(32, 64).bfloat16()
    rows[0, 3] = float("nan")
    rows[17, 4] = float("inf")
    rows[2, 4], rows[2, 5] = float("inf"), -float("inf")
    rows[3] = 3e38  # and the sum is more than there are numbers for
    weight[4, 31], weight[25, 30] = float("nan"), -float("inf")
    for bias in (None, torch.ones(32).bfloat16(), torch.full((32,), float("nan")).bfloat16()):
        torch.testing.assert_close(tiled(rows, weight, bias), F.linear(rows, weight, bias), equal_nan=True)


def test_who_else_uses_tiles_in_this_thread_is_not_disturbed() -> None:
    """oneDNN sets tiles up for its own products, and may take them for set up later."""
    rows, weight = torch.randn(40, 96).bfloat16(), torch.randn(48, 96).bfloat16()
    others = [(torch.randn(count, 160).bfloat16(), torch.randn(80, 160).bfloat16()) for count in (7, 33, 128)]
    own, expected = tiled(rows, weight, None, 2), [F.linear(*other) for other in others]
    for _ in range(10):
        for other, before in zip(others, expected, strict=True):
            assert torch.equal(F.linear(*other), before)
            assert torch.equal(tiled(rows, weight, None, 2), own)


def test_this_machine_has_what_the_code_asks_for() -> None:
    assert host_has("amx-tile", "amx-bf16")
