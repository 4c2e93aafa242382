"""Products of weights with a few rows, or with many in bf16, in the way that is fastest on this machine.

A CPU's matrix kernels are made for one row or for hundreds. Between them, some sort the whole weight into blocks first,
which takes longer than the product, and some are slow in bf16 altogether. There are other ways to ask for the same
product: machine code that reads the weight as it lies (:mod:`racer.kernels.native.dense`), or a copy that was sorted
once (:mod:`racer.core.packed_weights`). Which of them is fast no table says: they are timed, once for a few numbers of
rows, on the model's own weights.

Where the processor has no products of bf16, torch takes five times as long for them as for those of float32, also with
hundreds of rows.
"""

from __future__ import annotations

import ctypes
import math
import sys
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor

from racer.core.layer_program import NODES, Depends
from racer.core.model_state import state_of
from racer.core.recording import DTYPES, recorder
from racer.kernels.native.assembling import NotHere, host_has
from racer.kernels.native.dense import LANES, dense_product

HUGE = 1 << 24
"""Numbers in a weight from which on no copy of it is made, and ways are timed once: one such layer takes long."""
UP_TO = (1, 3, 8, 16, 32, 64)
"""Numbers of rows up to which each way is chosen."""
MANY = (256, sys.maxsize)
"""The same in bf16, of whose products of many rows there are slow ones too: a prompt's, or those of a batch's trees."""
BLOCK = 64
"""Rows that a weight is read for at once, where it is multiplied as it lies: more do not stay in the caches."""
ROUNDS = 4
"""Times that each way is timed."""

Facts = ctypes.c_int64 * 4


@attrs.define(eq=False)
class Looks:
    """How many weights one call has looked at, or timed; a pass in which it does takes longer."""

    count: int = 0


class Weight:
    """A layer's weight and bias, with what there is to multiply with them."""

    __slots__ = ("bias", "dtype", "facts", "inputs", "outputs", "packed", "place", "shape", "weight")

    def __init__(self, weight: Tensor, bias: Tensor | None, packed: Tensor | None = None) -> None:
        """
        :param weight: ``[out, in]``
        :param bias: ``[out]``
        :param packed: a copy in oneDNN's blocks.
        """
        self.weight, self.bias, self.packed = weight, bias, packed
        self.dtype, self.shape = weight.dtype, weight.shape
        self.outputs, self.inputs = weight.shape
        self.facts = Facts(weight.data_ptr(), 0 if bias is None else bias.data_ptr(), *weight.shape)
        self.place = ctypes.addressof(self.facts)

    def is_of(self, weight: Tensor | None, bias: Tensor | None) -> bool:
        """Whether these are still the same, in the same places, and lie there in the same way."""
        return (
            weight is self.weight
            and bias is self.bias
            and self.facts[0] == self.weight.data_ptr()
            and self.weight.is_contiguous()
            and self.weight.shape == self.shape
            and self.weight.dtype is self.dtype
            and (bias is None or (self.facts[1] == bias.data_ptr() and bias.is_contiguous()))
        )


Product = Callable[[Tensor, Weight], Tensor]
"""``rows [..., in]`` times a weight: ``[..., out]``"""


def by_torch(rows: Tensor, weight: Weight) -> Tensor:
    return F.linear(rows, weight.weight, weight.bias)


def by_columns(rows: Tensor, weight: Weight) -> Tensor:
    """The weight first: then it is the rows that are sorted."""
    own, bias, columns = weight.weight, weight.bias, rows.reshape(-1, weight.inputs).t()
    product = torch.mm(own, columns) if bias is None else torch.addmm(bias[:, None], own, columns)
    return product.t().contiguous().view(*rows.shape[:-1], weight.outputs)


def by_onednn(rows: Tensor, weight: Weight) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight.weight, weight.bias, "none", [], "")
    return product


def by_packed(rows: Tensor, weight: Weight) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight.packed, weight.bias, "none", [], "")
    return product


def as_it_lies(rows: Tensor, weight: Weight) -> Tensor:
    """:raises NotHere: there is no machine code for it."""
    inputs, dtype = weight.inputs, weight.dtype
    if inputs % LANES:
        raise NotHere("rows that are not whole vectors")
    if not rows.is_contiguous():
        rows = rows.contiguous()
    code, count, threads = dense_product(dtype is torch.bfloat16), rows.numel() // inputs, torch.get_num_threads()
    shape, writer = (*rows.shape[:-1], weight.outputs), recorder()
    product = rows.new_empty(shape) if writer is None else writer.empty(shape, dtype)
    wide, out = rows.element_size() * inputs, product.element_size() * weight.outputs
    for start in range(0, count, BLOCK):
        size = min(BLOCK, count - start)
        code(weight.place, rows.data_ptr() + start * wide, size, product.data_ptr() + start * out, threads)
    if writer is not None:
        writer.kept.append(weight)
        writer.note(code, weight.place, rows, Depends(NODES, count // writer.nodes), product, threads)
    return product


def widened(rows: Tensor, weight: Weight) -> Tensor:
    """In float32, from a copy of the weight that is made each time: with hundreds of rows that is a small part."""
    bias = None if weight.bias is None else weight.bias.float()
    return F.linear(rows.float(), weight.weight.float(), bias).to(weight.dtype)


WAYS: tuple[Product, ...] = (by_torch, as_it_lies, by_packed, by_columns, by_onednn, widened)

HEAD_START: dict[Product, float] = {as_it_lies: 40e-6}
"""Seconds that a way may take longer: a layer can only be recorded (:mod:`racer.core.recording`) where all goes this
way, and for each of its products that saves more."""
Case = tuple[int, int, int, torch.dtype, bool, int]
"""Bound of the rows, outputs and inputs, dtype, whether there is a packed copy, threads."""
TIMED = "ways to multiply are still timed, or weights looked at"


class FewRows:
    """Which way is fastest for one model's weights, as far as it is known.

    The first products of a case go each way in turn: so every weight comes from memory, as it will.
    """

    def __init__(self) -> None:
        self._tried: dict[Case, dict[Product, list[float]]] = {}
        self._fastest: dict[Case, Product] = {}

    def product(self, rows: Tensor, count: int, weight: Weight, looks: Looks) -> Tensor:
        """``rows [..., in]``, ``count`` of them, times a weight.

        :param looks: is told when ways are timed, as that takes longer.
        """
        own, packed = weight.weight, weight.packed is not None
        bounds = (*UP_TO, *MANY) if slow_in(own.dtype) else UP_TO
        bound = next((bound for bound in bounds if count <= bound), None)
        if bound is None:
            return by_packed(rows, weight) if packed else by_torch(rows, weight)
        case = (bound, weight.outputs, weight.inputs, own.dtype, packed, torch.get_num_threads())
        way = self._fastest.get(case)
        if way is not None:
            return way(rows, weight)
        looks.count += 1
        if (writer := recorder()) is not None:
            writer.fail(TIMED)
        return self._timed(case, rows, weight)

    def _timed(self, case: Case, rows: Tensor, weight: Weight) -> Tensor:
        tried = self._tried.setdefault(case, {way: [] for way in WAYS if _may_be(way, case)})
        way = min(tried, key=lambda way: len(tried[way]))
        start = time.perf_counter()
        try:
            product = way(rows, weight)
        except (NotHere, RuntimeError):  # torch cannot do it so here
            product = by_torch(rows, weight)
            tried[way] += [math.inf] * (ROUNDS + 1)
        else:
            tried[way].append(time.perf_counter() - start)
        rounds = 0 if len(tried) == 1 else 1 if case[1] * case[2] >= HUGE else ROUNDS
        if min(map(len, tried.values())) > rounds:  # the first may have made machine code
            self._fastest[case] = min(tried, key=lambda way: _seconds(tried[way]) - HEAD_START.get(way, 0.0))
        return product


def _seconds(tries: list[float]) -> float:
    return min(tries[1:] or tries)  # others may be at work meanwhile, and one thread then waits for the other


@cache
def _lies_well() -> bool:
    """Whether there is machine code for float32."""
    try:
        dense_product(False)
    except NotHere:
        return False
    return True


def _may_be(way: Product, case: Case) -> bool:
    """Whether it is worth a trial: what makes copies of whole weights is not, for one row, in bf16, or of huge ones."""
    bound, outputs, inputs, dtype, packed, _ = case
    if way is by_torch and bound == 1 and dtype == torch.float32:
        return inputs % LANES > 0 or not _lies_well()  # as fast as it lies, which a layer can be recorded with
    if way is by_packed:
        return packed and bound not in MANY  # each number of rows would have machine code of its own
    if way is widened:
        return bound in MANY and outputs * inputs < HUGE  # else the copy is too large
    if way in (by_columns, by_onednn):
        huge = outputs * inputs >= HUGE
        return not packed and bound > 1 and dtype == torch.float32 and not (huge and way is by_onednn)
    return True


@cache
def slow_in(dtype: torch.dtype) -> bool:
    """Whether torch's own products of many rows are slow in this dtype, as the processor has none."""
    return dtype is torch.bfloat16 and not host_has("avx512bf16") and not host_has("amx-bf16") and _lies_well()


def few_rows(model: Any) -> FewRows | None:
    """What is known of a model's weights; None where there is nothing to gain."""
    if model.device.type != "cpu" or model.dtype not in DTYPES:
        return None
    ways: FewRows = state_of(model).part(FewRows)
    return ways
