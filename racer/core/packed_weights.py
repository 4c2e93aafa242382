"""A second copy of a model's weights, in the layout that a CPU's matrix kernels read.

torch hands oneDNN a weight as it lies, ``[out, in]``, and every call sorts it into blocks on its way through the
caches. Sorted once and kept, the same kernels give the same numbers (bit by bit in bf16, up to rounding in float32) in
less time (``benchmarks/forward_ways.py`` measures it); with hundreds of rows, as in a prompt, the sorting is a small
part anyway. The weights then take their memory twice: what the model holds stays untouched, for everybody else who
runs it.
"""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeGuard

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from racer.core.model_state import find_state, state_of
from racer.core.packed_sizes import worth_packing

ROWS = 24
"""What the layout is chosen for. It made no difference between 1, 24 and 512 in bf16; in float32, 1 is bad for more."""
DTYPES = (torch.bfloat16, torch.float32)
SMALL = 2**30
"""Bytes of a model's packable weights up to which ``auto`` packs them."""


class PackingWarning(UserWarning):
    """Weights could not be packed; decoding goes on without."""


@attrs.define(eq=False)
class PackedLinear:
    """One layer's packed weight, and what it was made from."""

    layer: nn.Linear
    weight: Tensor
    """Opaque, in oneDNN's blocks."""
    place: int
    version: int
    sample: Tensor

    @classmethod
    def of(cls, layer: nn.Linear) -> PackedLinear:
        weight = layer.weight.detach()
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)
        return cls(layer, packed, weight.data_ptr(), layer.weight._version, _sample(weight).clone())

    @property
    def fresh(self) -> bool:
        """Whether the layer's weight is still the one that was packed.

        Changes that torch does not count (through ``.data``, as adapters are merged) show in the sample if they change
        a whole row, as of a token, or column: after an edit of single numbers, :func:`unpack` the model.
        """
        weight = self.layer.weight
        same = weight.data_ptr() == self.place and weight._version == self.version
        return same and torch.equal(_sample(weight.detach()), self.sample)

    def forward(self, rows: Tensor) -> Tensor:
        """What the layer's own forward gives."""
        if not worth_packing(rows) or rows.dtype != self.sample.dtype or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
            return F.linear(rows, self.layer.weight, self.layer.bias)
        product: Tensor = torch.ops.mkldnn._linear_pointwise(rows, self.weight, self.layer.bias, "none", [], "")
        return product


class PackedModel:
    """The packed weights of one model's linear layers."""

    def __init__(self) -> None:
        self._packed: dict[nn.Linear, PackedLinear] = {}

    def __len__(self) -> int:
        """How many layers."""
        return len(self._packed)

    def refresh(self, model: nn.Module) -> None:
        """Pack what is new or has changed since, and forget what is gone."""
        layers = [module for module in model.modules() if _packable(module)]
        self._keep(layers)  # before there are new ones, so that no weight is held three times
        self._packed = self._packed | {layer: PackedLinear.of(layer) for layer in layers if layer not in self._packed}

    def forget_stale(self) -> None:
        """Drop the copies of weights that have changed, or lie elsewhere now."""
        self._keep([layer for layer in self._packed if _packable(layer)])

    def _keep(self, layers: Sequence[nn.Linear]) -> None:
        held = ((layer, self._packed.get(layer)) for layer in layers)
        self._packed = {layer: packed for layer, packed in held if packed is not None and packed.fresh}

    @contextmanager
    def used(self) -> Iterator[None]:
        """Inside, the layers multiply with their packed weights.

        Another thread that runs the model meanwhile may get either kind, which are equal.
        """
        packed = self._packed
        for layer, stand_in in packed.items():
            layer.__dict__["forward"] = stand_in.forward  # past Module.__setattr__, which takes ten times as long
        try:
            yield
        finally:
            for layer in packed:
                layer.__dict__.pop("forward", None)


@attrs.define(eq=False)
class _Packing:
    """What is known of packing one model."""

    packed: PackedModel | None = None
    judged: dict[Hashable, bool] = attrs.field(factory=dict)
    """Whether it is packed, by its type and device, and by what is asked for."""


_lock = threading.Lock()


def pack(model: Any, choice: bool | str = True) -> PackedModel | None:
    """Pack the weights of ``model``, or what has changed of them; what it is to be run with now, None for its own.

    :param choice: ``DecodeConfig.pack``. With True, a model that cannot be packed here is warned of, once; with
        ``auto``, models that are not small are left as they are too.
    """
    if not choice:
        return None
    with _lock:
        subject, packing = (model.dtype, model.device, choice), state_of(model).part(_Packing)
        if subject not in packing.judged:
            reason = _obstacle(model, most=SMALL if choice == "auto" else sys.maxsize)
            packing.judged[subject] = not reason
            if reason and choice != "auto":
                _warn(model, reason)
        if not packing.judged[subject]:
            if packing.packed is not None:
                packing.packed.forget_stale()  # of the device that the model was on, say
            return None
        if packing.packed is None:  # an empty one may be in use, and is filled again
            packing.packed = PackedModel()
        try:
            packing.packed.refresh(model)
        except RuntimeError as failure:  # out of memory
            packing.judged[subject], packing.packed = False, None
            _warn(model, str(failure).splitlines()[0])
            return None
        return packing.packed if len(packing.packed) else None


def packed_model(model: Any) -> PackedModel | None:
    """The packed copy of the model's weights, if there is one."""
    packing = find_state(model).find(_Packing)
    return packing.packed if packing is not None and packing.packed is not None and len(packing.packed) else None


def unpack(model: Any) -> None:
    """Drop the packed weights of ``model``; calls that are running keep theirs."""
    with _lock:
        if (packing := find_state(model).find(_Packing)) is not None:
            packing.packed = None


def _warn(model: Any, reason: str) -> None:
    text = f"{type(model).__name__} is decoded without packed weights: {reason}"
    warnings.warn(text, PackingWarning, stacklevel=3)


def is_stand_in(forward: Any) -> bool:
    """Whether a layer's replaced ``forward`` is that of its packed weight."""
    return getattr(forward, "__func__", None) is PackedLinear.forward


def _packable(module: nn.Module) -> TypeGuard[nn.Linear]:
    # a subclass, or a layer whose forward somebody has replaced, does something else
    replaced = module.__dict__.get("forward")
    return (
        type(module) is nn.Linear
        and (replaced is None or is_stand_in(replaced))
        and module.weight.device.type == "cpu"
        and module.weight.dtype in DTYPES
        and module.weight.is_contiguous()
    )


def _sample(weight: Tensor) -> Tensor:
    """Some number of every row of a weight ``[out, in]``, each in the column before the last one's; a view."""
    return weight.view(-1)[:: max(1, weight.shape[1] - 1)]


def _obstacle(model: Any, most: int) -> str:
    """Why the model's weights, of ``most`` bytes at most, cannot be packed on this machine; empty if they can."""
    if model.device.type != "cpu":
        return f"it is on {model.device}, and packing is for CPUs"
    if getattr(model, "_compiled_call_impl", None) is not None:
        return "torch compiles its forward"
    layers = [module for module in model.modules() if _packable(module)]
    if not layers:
        return "it has no linear layers in bf16 or float32"
    if sum(layer.weight.nbytes for layer in layers) > most:
        return f"they take more than {most} bytes"
    layer = min(layers, key=lambda layer: layer.weight.numel())
    rows = torch.linspace(-1, 1, 3 * layer.in_features, dtype=layer.weight.dtype).view(3, -1)
    try:
        with torch.no_grad():
            error = (PackedLinear.of(layer).forward(rows) - layer(rows)).abs().max()
            scale = layer(rows).abs().max()
    except (AttributeError, RuntimeError) as failure:  # torch without oneDNN, or a CPU that it has no kernels for
        return f"torch cannot do it here ({str(failure).splitlines()[0]})"
    return "" if error <= 0.02 * scale else "a product with a packed weight is wrong"
