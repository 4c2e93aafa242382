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
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeGuard
from weakref import WeakKeyDictionary

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
        if rows.dtype != self.sample.dtype or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
            return F.linear(rows, self.layer.weight, self.layer.bias)
        product: Tensor = torch.ops.mkldnn._linear_pointwise(rows, self.weight, self.layer.bias, "none", [], "")
        return product


class PackedModel:
    """The packed weights of one model's linear layers."""

    def __init__(self) -> None:
        self._packed: dict[nn.Linear, PackedLinear] = {}

    def __len__(self) -> int:
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


_models: WeakKeyDictionary[Any, PackedModel] = WeakKeyDictionary()
_judged: WeakKeyDictionary[Any, dict[Hashable, bool]] = WeakKeyDictionary()
"""Whether models are packed, by their type and device, and by what is asked for."""
_lock = threading.Lock()


def pack(model: Any, choice: bool | str = True) -> bool:
    """Pack the weights of ``model``, or what has changed of them; whether it is to be run packed now.

    :param choice: ``DecodeConfig.pack``. With True, a model that cannot be packed here is warned of, once; with
        ``auto``, models that are not small are left as they are too.
    """
    if not choice:
        return False
    with _lock:
        state = model.dtype, model.device, choice
        judged = _judged.setdefault(model, {})
        if state not in judged:
            reason = _obstacle(model, most=SMALL if choice == "auto" else sys.maxsize)
            judged[state] = not reason
            if reason and choice != "auto":
                _warn(model, reason)
        if not judged[state]:
            if model in _models:
                _models[model].forget_stale()  # of the device that the model was on, say
            return False
        packed = _models.setdefault(model, PackedModel())
        try:
            packed.refresh(model)
        except RuntimeError as failure:  # out of memory
            judged[state] = False
            del _models[model]
            _warn(model, str(failure).splitlines()[0])
            return False
        return len(packed) > 0


def _warn(model: Any, reason: str) -> None:
    text = f"{type(model).__name__} is decoded without packed weights: {reason}"
    warnings.warn(text, PackingWarning, stacklevel=3)


def is_packed(model: Any) -> bool:
    """Whether there is a packed copy of the model's weights."""
    return len(_models.get(model, ())) > 0


def packed_weights(model: Any) -> AbstractContextManager[None]:
    """See :meth:`PackedModel.used`; of a model that is not packed, nothing is done."""
    packed = _models.get(model)
    return nullcontext() if packed is None else packed.used()


def unpack(model: Any) -> None:
    """Drop the packed weights of ``model``."""
    with _lock:
        _models.pop(model, None)


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
