"""Products of large float32 weights with a few rows, in the way that is fastest on this machine.

A CPU's matrix kernels are made for one row or for hundreds. Between them, some sort the whole weight into blocks first,
which takes longer than the product. Where no sorted copy is kept (:mod:`racer.core.packed_weights`), there are other
ways to ask for the same product, and which of them is fast no table says: they are timed, once for a few numbers of
rows, on the model's own weights.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from racer.core.model_state import state_of
from racer.core.packed_weights import Looks, packable, suits
from racer.core.twin import Leaf, Twin, share

LARGE = 1 << 21
"""Numbers in a weight from which on it is worth a thought: small ones stay in a cache."""
HUGE = 1 << 24
"""Numbers from which on no way is taken that makes a copy."""
UP_TO = (8, 16, 32, 48)
"""Numbers of rows up to which each way is chosen."""
FEWEST = 4
"""Fewer rows are multiplied well by all."""
ROUNDS = 4
"""Times that each way is timed."""

Product = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""``[N, in]``, ``[out, in]``, ``[out]`` -> ``[N, out]``"""
Case = tuple[int, bool, int]
"""Bound of the rows, whether the weight is huge, and threads."""


def _by_columns(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The weight first: then it is the rows that are sorted."""
    product = torch.mm(weight, rows.t()) if bias is None else torch.addmm(bias[:, None], weight, rows.t())
    return product.t().contiguous()


def _by_onednn(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
    return product


WAYS: tuple[Product, ...] = (F.linear, _by_columns, _by_onednn)


class FewRows:
    """Which way is fastest for one model's weights, as far as it is known.

    The first products of a case go each way in turn: so every weight comes from memory, as it will.
    """

    def __init__(self) -> None:
        self._tried: dict[Case, dict[Product, list[float]]] = {}
        self._fastest: dict[Case, Product] = {}

    def product(self, rows: Tensor, weight: Tensor, bias: Tensor | None, looks: Looks) -> Tensor:
        """``rows [N, in]`` times ``weight [out, in]``.

        :param looks: is told when ways are timed, as that takes longer.
        """
        bound = next((bound for bound in UP_TO if len(rows) <= bound), None)
        if bound is None or len(rows) < FEWEST:
            return F.linear(rows, weight, bias)
        case = (bound, weight.numel() >= HUGE, torch.get_num_threads())
        way = self._fastest.get(case)
        if way is not None:
            return way(rows, weight, bias)
        looks.count += 1
        return self._timed(case, rows, weight, bias)

    def _timed(self, case: Case, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        tried = self._tried.setdefault(case, {way: [] for way in WAYS if way is not _by_onednn or not case[1]})
        way = min(tried, key=lambda way: len(tried[way]))
        start = time.perf_counter()
        try:
            product = way(rows, weight, bias)
        except RuntimeError:  # torch cannot do it so here
            product = F.linear(rows, weight, bias)
            tried[way] += [math.inf] * (ROUNDS + 1)
        else:
            tried[way].append((time.perf_counter() - start) / weight.numel())
        if min(map(len, tried.values())) > ROUNDS:  # the first may have made machine code
            self._fastest[case] = min(tried, key=lambda way: statistics.median(tried[way][1:]))
        return product


class FewRowsLinear(Twin, nn.Linear):
    """A linear layer's twin, for one call: its own weight, multiplied in the fastest way."""

    __slots__ = ("_racer_looks", "_racer_ways")
    _racer_ways: FewRows
    _racer_looks: Looks

    def forward(self, input: Tensor) -> Tensor:
        """What the layer's own forward gives, up to rounding."""
        weight, bias = self._parameters["weight"], self._parameters["bias"]
        assert weight is not None
        if not suits(input, weight):
            return F.linear(input, weight, bias)
        rows = input.reshape(-1, input.shape[-1])
        return self._racer_ways.product(rows, weight, bias, self._racer_looks).view(*input.shape[:-1], len(weight))


def few_rows(model: Any, looks: Looks) -> Leaf | None:
    """Makes the twins of a model's large layers; None where there is nothing to gain."""
    if model.device.type != "cpu" or model.dtype != torch.float32:
        return None
    ways = state_of(model).part(FewRows)

    def leaf(module: nn.Module) -> Any | None:
        if not packable(module) or module.weight.numel() < LARGE or module.weight.dtype != torch.float32:
            return None
        return share(module, object.__new__(FewRowsLinear), _racer_ways=ways, _racer_looks=looks)

    return leaf
