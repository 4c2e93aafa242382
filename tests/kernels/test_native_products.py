"""Products in machine code of our own, beside the definition in float64."""

from __future__ import annotations

import ctypes
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from racer.kernels.native.assembling import NotHere, team
from racer.kernels.native.dense import dense_product
from racer.kernels.native.few_bits import Format
from racer.kernels.native.packed import available, packed_product
from support.few_bits import PackedMatrix

FORMATS = [
    Format(bits, group, offset << (bits - 1), least, halves)
    for bits, group, (offset, least), halves in product(
        (4, 5, 6, 8), (16, 32), ((0, True), (1, False)), (True, False)
    )
]  # fmt: skip
SIZES = {"usual": 1.0, "huge": 1e30, "tiny": 1e-20, "mixed": 0.0}
NONE = 1e-30
"""Numbers up to which a group of a row is taken for zeros."""

has_packed = pytest.mark.skipif(not (available() and team()), reason="needs AVX-512 VNNI and GNU's OpenMP")
has_dense = pytest.mark.skipif(not team(), reason="needs GNU's OpenMP")


def rows_of(count: int, inputs: int, size: str, seed: int) -> Tensor:
    """Some of them zero, and some with a number that outshines the others."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, inputs, generator=generator)
    if size == "mixed":
        rows *= 10.0 ** torch.randint(-30, 20, (count, inputs), generator=generator)
    else:
        rows *= SIZES[size]
    rows[torch.rand(count, generator=generator) < 0.1] = 0
    rows[torch.rand(count, inputs, generator=generator) < 0.05] *= 50
    return rows


def bound(matrix: PackedMatrix, rows: Tensor) -> Tensor:
    """How far a product may be from the right one: half of a row's step for each weight, and what float32 rounds."""
    group = matrix.kept.group
    most = rows.double().abs().view(len(rows), -1, group).amax(-1)
    weights = matrix.weight.abs().view(len(matrix.numbers), -1, group).sum(-1)
    share = torch.from_numpy(matrix.numbers.astype(float)).add(matrix.kept.offset).view(*weights.shape, group).sum(-1)
    terms = share * torch.from_numpy(abs(matrix.scales)).double() + group * torch.from_numpy(abs(matrix.least)).double()
    steps = (most / 2**14 + NONE) @ weights.t()
    added = 0 if matrix.bias is None else torch.from_numpy(abs(matrix.bias)).double()
    return steps + 2**-20 * (most @ terms.t() + added)


@has_packed
@settings(max_examples=12)
@given(
    rows=st.one_of(st.integers(1, 17), st.integers(1, 70)), blocks=st.integers(1, 9), units=st.integers(1, 5),
    bias=st.booleans(), size=st.sampled_from(list(SIZES)), seed=st.integers(0, 2**31),
)  # fmt: skip
@pytest.mark.parametrize("kept", FORMATS, ids=str)
def test_packed_products(kept: Format, rows: int, blocks: int, units: int, bias: bool, size: str, seed: int) -> None:
    matrix = PackedMatrix.random(kept, 16 * blocks, 32 * units, seed, bias=bias)
    given = rows_of(rows, 32 * units, size, seed)
    got, expected = matrix.product(given), given.double() @ matrix.weight.t()
    if matrix.bias is not None:
        expected += torch.from_numpy(matrix.bias)
    assert ((got - expected).abs() <= bound(matrix, given)).all()


@has_packed
@pytest.mark.parametrize("kept", [FORMATS[0], FORMATS[-1], Format(6, 16, 32, False, False)], ids=str)
def test_a_rows_product_does_not_depend_on_its_neighbours_or_on_threads(kept: Format) -> None:
    matrix, rows = PackedMatrix.random(kept, 208, 96, 0, bias=True), rows_of(33, 96, "usual", 1)
    whole = matrix.product(rows)
    for threads in (2, 3, 8):
        assert torch.equal(matrix.product(rows, threads), whole)
    for start in range(33):
        for stop in (start + 1, min(start + 5, 33), 33):
            assert torch.equal(matrix.product(rows[start:stop]), whole[start:stop])


@has_packed
@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
def test_a_row_that_is_not_finite_gives_nan_and_its_neighbours_do_not(wrong: float) -> None:
    matrix, rows = PackedMatrix.random(Format(4, 32, 8, False, True), 32, 64, 0, bias=False), torch.randn(9, 64)
    rows[3, 40] = wrong
    got = matrix.product(rows)
    assert not got[3].isfinite().any()
    assert got[[row for row in range(9) if row != 3]].isfinite().all()


def dense(rows: Tensor, weight: Tensor, bias: Tensor | None, threads: int = 1) -> Tensor:
    outputs, inputs = weight.shape
    static = (ctypes.c_int64 * 4)(weight.data_ptr(), 0 if bias is None else bias.data_ptr(), outputs, inputs)
    guarded = torch.full((len(rows) + 1, outputs), 7.5, dtype=rows.dtype)
    code = dense_product(rows.dtype is torch.bfloat16)
    code(ctypes.addressof(static), rows.data_ptr(), len(rows), guarded.data_ptr(), threads)
    assert (guarded[-1] == 7.5).all(), "nothing is written beyond the result"
    return guarded[:-1]


@has_dense
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@given(
    rows=st.one_of(st.integers(1, 14), st.integers(1, 70)), outputs=st.integers(1, 150), inputs=st.integers(1, 12),
    bias=st.booleans(), size=st.sampled_from([1.0, 1e15, 1e-15]), seed=st.integers(0, 2**31),
)  # fmt: skip
def test_dense_products(
    dtype: torch.dtype, rows: int, outputs: int, inputs: int, bias: bool, size: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    given = (size * torch.randn(rows, 16 * inputs, generator=generator)).to(dtype)
    weight = torch.randn(outputs, 16 * inputs, generator=generator).to(dtype)
    added = torch.randn(outputs, generator=generator).to(dtype) if bias else None
    got = dense(given, weight, added)
    expected = F.linear(given.double(), weight.double(), None if added is None else added.double())
    error = given.double().abs() @ weight.double().abs().t() * 2**-20 + 1e-30
    error += expected.abs() * (2**-8 if dtype == torch.bfloat16 else 2**-20)
    assert ((got.double() - expected).abs() <= error).all()
    assert torch.equal(dense(given, weight, added, threads=3), got)
    for row in range(0, rows, 5):
        assert torch.equal(dense(given[row : row + 1], weight, added), got[row : row + 1])


@has_dense
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_numbers_that_are_none_and_infinities_are_as_torchs(dtype: torch.dtype) -> None:
    rows, weight = torch.ones(5, 32, dtype=dtype), torch.ones(7, 32, dtype=dtype)
    rows[0, 3] = float("nan")
    rows[1, 4] = float("inf")
    rows[2, 4], rows[2, 5] = float("inf"), -float("inf")
    rows[3] = 3e38  # and the sum is more than there are numbers for
    weight[4, 31], weight[5, 30] = float("nan"), -float("inf")
    for bias in (None, torch.ones(7, dtype=dtype), torch.full((7,), float("nan"), dtype=dtype)):
        got, expected = dense(rows, weight, bias), F.linear(rows, weight, bias)
        torch.testing.assert_close(got, expected, equal_nan=True)


@has_dense
def test_bf16_is_rounded_to_the_nearest_and_to_even_ones() -> None:
    """A weight of ones sums sixteenths beyond eight bits."""
    parts = torch.tensor([[256.0, 1.0], [258.0, 1.0], [256.0, 1.5], [256.0, 0.5], [3.3895e38, 1e36]])
    rows = torch.zeros(5, 16)
    rows[:, :2] = parts
    given, weight = rows.bfloat16(), torch.ones(1, 16).bfloat16()
    assert torch.equal(dense(given, weight, None)[:, 0], given.float().sum(1).bfloat16())


def test_what_no_code_is_made_for_is_refused() -> None:
    with pytest.raises(NotHere):
        packed_product(Format(4, 32, 8, True, True))


@pytest.mark.skipif(available(), reason="the processor has what is needed")
def test_processors_without_dot_products_have_no_packed_ones() -> None:
    with pytest.raises(NotHere, match="VNNI"):
        PackedMatrix.random(FORMATS[0], 16, 32, 0, bias=False).product(torch.ones(1, 32))
