"""A second copy of a model's weights, in the layout that a CPU's matrix kernels read.

torch hands oneDNN a weight as it lies, ``[out, in]``, and every call sorts it into blocks on its way through the
caches. Sorted once and kept, the same kernels give the same numbers (bit by bit in bf16, up to rounding in float32) in
less time (``benchmarks/forward_ways.py`` measures it); with hundreds of rows, as in a prompt, the sorting is a small
part anyway. The weights then take their memory twice: what the model holds stays untouched, for everybody else who
runs it.

**A copy is used only while it is one.** Prompts are scored with the model's own weights, and so is the first tree of a
call: after a layer's product all bytes of its weight are hashed. If they are those that were packed, wherever and by
whomever they were written, later products of the call use the copy; else it is made anew. What changes a weight within
a call is noticed by torch's count of changes and by the weight's place. (Of what is written past torch *within* a call,
through ``.data`` or numpy, nothing tells until the next call.)
"""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Hashable, Iterable
from typing import Any, TypeGuard

import attrs
import torch
from torch import Tensor, nn

from racer.core.model_state import find_state, state_of
from racer.core.twin import obstacle
from racer.core.weight_contents import Contents, contents_of
from racer.kernels.native.assembling import multiplies_bf16
from racer.kernels.native.tiled_products import tiles_here

ROWS = 24
"""What the layout is chosen for. It made no difference between 1, 24 and 512 in bf16; in float32, 1 is bad for more."""
DTYPES = (torch.bfloat16, torch.float32)
SMALL = 2**30
"""Bytes of a model's packable weights up to which ``auto`` packs them."""
WORTH = 16
"""New tokens from which on a call gains more by the copies than it pays for looking at the weights: that takes as long
as four or five trees of 24 nodes gain."""


class PackingWarning(UserWarning):
    """Weights could not be packed; decoding goes on without."""


@attrs.frozen(eq=False)
class PackedWeight:
    """One layer's packed weight, and what it was made from."""

    weight: Tensor
    """Opaque, in oneDNN's blocks."""
    contents: Contents


class PackedModel:
    """The packed weights of one model's linear layers. Calls in several threads may use them at once."""

    def __init__(self, model_name: str, kind: Hashable = None) -> None:
        self._model_name = model_name
        self.kind = kind
        """The dtype and device that the model had."""
        self._packed: dict[nn.Linear, PackedWeight] = {}
        self.failure = ""
        """Why there will be no more, if so."""

    def __len__(self) -> int:
        """How many layers."""
        return len(self._packed)

    def keep(self, layers: Iterable[nn.Linear]) -> None:
        """Forget all other layers, and those that are of another dtype or shape by now."""
        held = ((layer, self._packed.get(layer)) for layer in layers)
        self._packed = {
            layer: packed
            for layer, packed in held
            if packed is not None and packed.contents[:2] == (layer.weight.dtype, layer.weight.shape)
        }

    def current(self, layer: nn.Linear) -> Tensor | None:
        """The layer's weight as it is now, packed; None if there is no memory for it."""
        if self.failure:
            return None
        weight = layer.weight.detach()
        contents, held = contents_of(weight), self._packed.get(layer)
        if held is None or held.contents != contents:
            held = None
            self._packed.pop(layer, None)  # before there is a new one, so that no weight is held three times
            try:
                packed = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)
            except RuntimeError as failure:
                self.give_up(str(failure).splitlines()[0])
                return None
            if contents_of(weight) != contents:  # another thread is writing
                return None
            self._packed[layer] = held = PackedWeight(packed, contents)
        return held.weight

    def give_up(self, reason: str) -> None:
        """Pack nothing more, and say so, once."""
        self._packed.clear()
        if not self.failure:
            self.failure = reason
            _warn(self._model_name, reason)


def packable(module: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether a module is a linear layer with a plain weight on a CPU, for which there are other ways to multiply."""
    if type(module) is not nn.Linear:  # a subclass does something else
        return False
    weight, bias = (module._parameters.get(name) for name in ("weight", "bias"))
    return (
        weight is not None
        and type(weight) in (Tensor, nn.Parameter)  # not what holds quantised numbers
        and weight.device.type == "cpu"
        and weight.dtype in DTYPES
        and weight.is_contiguous()
        and weight.numel() > 0
        and not weight.is_inference()  # changes of it are not counted
        and (bias is None or _fits(bias, weight))
    )


def _fits(bias: Tensor, weight: Tensor) -> bool:
    """Whether a bias lies as a weight with other ways does."""
    return (
        type(bias) in (Tensor, nn.Parameter)
        and bias.device.type == "cpu"
        and bias.dtype == weight.dtype
        and bias.shape == weight.shape[:1]
        and bias.is_contiguous()
    )


@attrs.define(eq=False)
class _Packing:
    """What is known of packing one model."""

    packed: PackedModel | None = None
    judged: dict[Hashable, bool] = attrs.field(factory=dict)
    """Whether it is packed, by its type and device, by what is asked for, and by what stands in the way."""


_lock = threading.Lock()


def pack(model: Any, choice: bool | str = True, new_tokens: int = sys.maxsize) -> PackedModel | None:
    """The packed weights that ``model`` is to be run with now, filled as it runs; None for its own.

    :param choice: ``DecodeConfig.pack``. With True, a model that cannot be packed here is warned of, once; with
        ``auto``, models that are not small are left as they are too.
    :param new_tokens: how long the call may become.
    """
    if not choice or new_tokens < WORTH:
        return None
    with _lock:
        packing, between = state_of(model).part(_Packing), obstacle(model)
        kind = model.dtype, model.device
        subject = *kind, choice, between
        if subject not in packing.judged:
            auto = choice == "auto"
            reason = between or (auto and _needless(model)) or _obstacle(model, SMALL if auto else sys.maxsize)
            packing.judged[subject] = not reason
            if reason and choice != "auto":
                _warn(type(model).__name__, reason)
        if packing.packed is not None:  # of the device that the model was on, say
            packing.packed.keep(layer for layer in model.modules() if packable(layer))
        if not packing.judged[subject]:
            return None
        if packing.packed is None or (packing.packed.failure and packing.packed.kind != kind):
            packing.packed = PackedModel(type(model).__name__, kind)
        return None if packing.packed.failure else packing.packed


def packed_model(model: Any) -> PackedModel | None:
    """The packed copy of the model's weights, if there is one."""
    packing = find_state(model).find(_Packing)
    return packing.packed if packing is not None and packing.packed is not None and len(packing.packed) else None


def _warn(model_name: str, reason: str) -> None:
    warnings.warn(f"{model_name} is decoded without packed weights: {reason}", PackingWarning, stacklevel=3)


def _needless(model: Any) -> str:
    """Why packed weights would not be faster than what is done with weights as they lie; empty if they might be."""
    if model.dtype != torch.bfloat16:
        return ""
    if tiles_here():
        return "the processor's tiles multiply weights as they lie"
    return "" if multiplies_bf16() else "the processor has no products of bf16, with whose lack oneDNN deals slowly"


def _obstacle(model: Any, most: int) -> str:
    """Why the model's weights, of ``most`` bytes at most, cannot be packed on this machine; empty if they can."""
    if model.device.type != "cpu":
        return f"it is on {model.device}, and packing is for CPUs"
    if getattr(model, "_compiled_call_impl", None) is not None:
        return "torch compiles its forward"
    layers = [module for module in model.modules() if packable(module)]
    if not layers:
        return "it has no linear layers in bf16 or float32"
    if sum(layer.weight.nbytes for layer in layers) > most:
        return f"they take more than {most} bytes"
    layer = min(layers, key=lambda layer: layer.weight.numel())
    rows = torch.linspace(-1, 1, 3 * layer.in_features, dtype=layer.weight.dtype).view(3, -1)
    try:
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            plain, weight = layer(rows), torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), ROWS)
            error = torch.ops.mkldnn._linear_pointwise(rows, weight, layer.bias, "none", [], "") - plain
    except (AttributeError, RuntimeError) as failure:  # torch without oneDNN, or a CPU that it has no kernels for
        return f"torch cannot do it here ({str(failure).splitlines()[0]})"
    return "" if error.abs().max() <= 0.02 * plain.abs().max() else "a product with a packed weight is wrong"
