"""Ways to multiply rows with a weight: torch's, oneDNN's, and machine code of our own."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from racer.core.layer_program import NODES, Depends
from racer.core.recording import recorder
from racer.kernels.native.assembling import Function, NotHere
from racer.kernels.native.dense import LANES, dense_product
from racer.kernels.native.tiled_products import WHOLE, tile_product

BLOCK = 64
"""Rows that a weight is read for at once, where it is multiplied as it lies: more do not stay in the caches."""

Facts = ctypes.c_int64 * 4


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
    if weight.inputs % LANES:
        raise NotHere("rows that are not whole vectors")
    return _by_code(dense_product(weight.dtype is torch.bfloat16), rows, weight, BLOCK)


def in_tiles(rows: Tensor, weight: Weight) -> Tensor:
    """Of bf16. :raises NotHere: it is another dtype, there is no machine code for it, or the processor has no tiles."""
    if weight.dtype is not torch.bfloat16 or weight.inputs % WHOLE["inputs"] or weight.outputs % WHOLE["outputs"]:
        raise NotHere("a weight that is not whole tiles")
    return _by_code(tile_product(), rows, weight, sys.maxsize)


def _by_code(code: Function, rows: Tensor, weight: Weight, most: int) -> Tensor:
    """With ``most`` rows at once."""
    inputs, dtype = weight.inputs, weight.dtype
    if not rows.is_contiguous():
        rows = rows.contiguous()
    count, threads = rows.numel() // inputs, torch.get_num_threads()
    shape, writer = (*rows.shape[:-1], weight.outputs), recorder()
    product = rows.new_empty(shape) if writer is None else writer.empty(shape, dtype)
    wide, out = rows.element_size() * inputs, product.element_size() * weight.outputs
    for start in range(0, count, most):
        size = min(most, count - start)
        code(weight.place, rows.data_ptr() + start * wide, size, product.data_ptr() + start * out, threads)
    if writer is not None:
        writer.kept.append(weight)
        writer.note(code, weight.place, rows, Depends(NODES, count // writer.nodes), product, threads)
    return product


def widened(rows: Tensor, weight: Weight) -> Tensor:
    """In float32, from a copy of the weight that is made each time: with hundreds of rows that is a small part."""
    bias = None if weight.bias is None else weight.bias.float()
    return F.linear(rows.float(), weight.weight.float(), bias).to(weight.dtype)
