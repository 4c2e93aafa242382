"""Products of weights with a few rows, or with many in bf16, in the way that is fastest on this machine.

A CPU's matrix kernels are made for one row or for hundreds. Between them, some sort the whole weight into blocks first,
which takes longer than the product, and some are slow in bf16 altogether. There are other ways to ask for the same
product: machine code that reads the weight as it lies (:mod:`racer.kernels.native.dense`), or a copy that was sorted
once (:mod:`racer.core.packed_weights`). Which of them is fast no table says: they are timed, once for a few numbers of
rows, on the model's own weights.

Where the processor has no products of bf16, torch takes five times as long for them as for those of float32, also with
hundreds of rows; and where it has tiles for them, torch sorts a weight into blocks for each prompt anew.
"""

from __future__ import annotations

import math
import sys
import time
from functools import cache
from typing import Any

import attrs
import torch
from torch import Tensor

from racer.core.model_state import state_of
from racer.core.products import (
    Product,
    Weight,
    as_it_lies,
    by_columns,
    by_onednn,
    by_packed,
    by_torch,
    in_tiles,
    widened,
)
from racer.core.recording import DTYPES, recorder
from racer.kernels.native.assembling import NotHere, multiplies_bf16
from racer.kernels.native.dense import LANES, dense_product
from racer.kernels.native.tiled_products import tiles_here

HUGE = 1 << 24
"""Numbers in a weight from which on no copy of it is made, and ways are timed once: one such layer takes long."""
UP_TO = (1, 3, 8, 16, 32, 64)
"""Numbers of rows up to which each way is chosen."""
MANY = (256, sys.maxsize)
"""The same where :func:`many_rows` says so: of a prompt, or of a batch's trees."""
ROUNDS = 4
"""Times that each way is timed."""


@attrs.define(eq=False)
class Looks:
    """How many weights one call has looked at, or timed; a pass in which it does takes longer."""

    count: int = 0


WAYS: tuple[Product, ...] = (by_torch, as_it_lies, in_tiles, by_packed, by_columns, by_onednn, widened)

HEAD_START: dict[Product, float] = {as_it_lies: 40e-6, in_tiles: 40e-6}
"""Seconds that a way may take longer: a layer can only be recorded (:mod:`racer.core.recording`) where all goes
these ways, and for each of its products that saves more."""
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
        bounds = (*UP_TO, *MANY) if many_rows(own.dtype) else UP_TO
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
        return bound in MANY and _lacks(dtype) and outputs * inputs < HUGE  # else the copy is too large
    if way is in_tiles:
        return dtype is torch.bfloat16 and tiles_here() and bound > 1
    if way is as_it_lies:
        return bound not in MANY or _lacks(dtype)
    if way in (by_columns, by_onednn):
        huge = outputs * inputs >= HUGE
        return not packed and bound > 1 and dtype == torch.float32 and not (huge and way is by_onednn)
    return True


def _lacks(dtype: torch.dtype) -> bool:
    """Whether the processor has no products of this dtype."""
    return dtype is torch.bfloat16 and not multiplies_bf16()


@cache
def many_rows(dtype: torch.dtype) -> bool:
    """Whether there may be faster ways than torch's own for many rows too."""
    return (_lacks(dtype) and _lies_well()) or (dtype is torch.bfloat16 and tiles_here())


def few_rows(model: Any) -> FewRows | None:
    """What is known of a model's weights; None where there is nothing to gain."""
    if model.device.type != "cpu" or model.dtype not in DTYPES:
        return None
    ways: FewRows = state_of(model).part(FewRows)
    return ways
