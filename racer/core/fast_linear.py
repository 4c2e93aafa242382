"""Linear layers' twins, whose products go the way that is fastest here."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from racer.core.few_rows import TIMED, FewRows, Looks, many_rows
from racer.core.packed_sizes import worth_packing
from racer.core.packed_weights import PackedModel, packable
from racer.core.products import Weight
from racer.core.recording import recorder
from racer.core.twin import Twin, share
from racer.core.weight_contents import WeightCopy


class FastLinear(Twin, nn.Linear):
    """A linear layer's twin, for one call: its product goes the fastest way."""

    __slots__ = ("_racer_copy", "_racer_layer", "_racer_looks", "_racer_store", "_racer_ways", "_racer_weight")
    _racer_layer: nn.Linear
    _racer_ways: FewRows
    _racer_looks: Looks
    _racer_store: PackedModel | None
    _racer_copy: WeightCopy | None
    """None before the weight was looked at, for its packed copy."""
    _racer_weight: Weight | None
    """None before the first product."""

    def forward(self, input: Tensor) -> Tensor:
        """What the layer's own forward gives, up to rounding."""
        parameters = self._parameters
        weight, bias, held = parameters.get("weight"), parameters.get("bias"), self._racer_weight
        if held is None or not held.is_of(weight, bias):
            if weight is None or not packable(self._racer_layer):  # any more
                product: Tensor = self._racer_layer(input)
                return product
            held = Weight(weight, bias)
            object.__setattr__(self, "_racer_weight", held)
        count = input.numel() // held.inputs
        if not suits(input, count, held.dtype) or input.shape[-1] != held.inputs:
            return F.linear(input, held.weight, bias)
        store = self._racer_store
        if count == 1 and held.dtype is torch.float32:  # for which no copy is used, so that none is looked at
            held.packed = None
        elif store is not None:
            copy = self._racer_copy
            if copy is None:
                if (writer := recorder()) is not None:
                    writer.fail(TIMED)
                own = F.linear(input, held.weight, bias)
                self._look(held.weight, store)
                return own
            held.packed = copy.packed if copy.is_of(held.weight) else None
        if (writer := recorder()) is not None:
            writer.weight(parameters, "weight")
            writer.weight(parameters, "bias")
        return self._racer_ways.product(input, count, held, self._racer_looks)

    def _look(self, weight: Tensor, store: PackedModel) -> None:
        if packable(self._racer_layer):
            self._racer_looks.count += 1
            copy = WeightCopy(weight)  # before the look, so that what is written meanwhile is noticed
            copy.packed = store.current(self._racer_layer)
            object.__setattr__(self, "_racer_copy", copy)


def twin_of_layer(ways: FewRows, store: PackedModel | None, looks: Looks, module: nn.Module) -> Any | None:
    """The twin of a linear layer; None of what is none, or cannot be multiplied otherwise."""
    if not packable(module):
        return None
    own = {"_racer_layer": module, "_racer_store": store, "_racer_looks": looks, "_racer_ways": ways}
    return share(module, object.__new__(FastLinear), **own, _racer_copy=None, _racer_weight=None)


def suits(rows: Tensor, count: int, dtype: torch.dtype) -> bool:
    """Whether ``rows [..., in]``, ``count`` of them, may be multiplied otherwise than by a layer of ``dtype``."""
    return (
        type(rows) is Tensor
        and rows.is_cpu
        and rows.dtype is dtype
        and count > 0
        and rows.dim() > 1
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and (worth_packing(count) or many_rows(dtype))
    )
