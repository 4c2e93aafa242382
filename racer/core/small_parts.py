"""Norms, gates and rotary positions in machine code, for numbers that it may read; None where torch shall do it.

Each is written down where a layer is recorded (:mod:`racer.core.recording`).
"""

from __future__ import annotations

import functools
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from racer.core.layer_program import NODES, Depends
from racer.core.recording import DTYPES, recorder
from racer.kernels.native.assembling import NotHere
from racer.kernels.native.small import GELU_TANH, LANES, SILU, gate, root_mean_square, rotation

MOST = 1 << 18
"""Numbers up to which one thread is enough to turn them."""


def is_plain(numbers: Any) -> bool:
    """Whether machine code may read them."""
    return (
        type(numbers) in (Tensor, nn.Parameter)
        and numbers.dtype in DTYPES
        and numbers.device.type == "cpu"
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
    )


def normed(module: Any, rows: Any, shifted: bool, name: str) -> Tensor | None:
    weight = module._parameters.get("weight")
    if not (is_plain(rows) and is_plain(weight) and rows.dtype == weight.dtype):
        return None
    if rows.dim() == 4 and (rows.stride(1) < rows.stride(2) or _is_one_head(rows)):  # heads first, but only in name
        turned_ = normed(module, rows.transpose(1, 2), shifted, name)
        return None if turned_ is None else turned_.transpose(1, 2)
    width = rows.shape[-1]
    if width % LANES or weight.shape != (width,):
        return None
    added = getattr(module, name)
    if type(added) not in (float, int) or not (rows.is_contiguous() and weight.is_contiguous()):
        return None
    try:
        norm = root_mean_square(rows.dtype == torch.bfloat16, shifted)
    except NotHere:
        return None
    count, writer = rows.numel() // width, recorder()
    out = torch.empty_like(rows) if writer is None else writer.empty(tuple(rows.shape), rows.dtype)
    threads = torch.get_num_threads()
    norm(rows.data_ptr(), weight.data_ptr(), out.data_ptr(), count, width, added, threads)
    if writer is not None:
        writer.weight(module._parameters, "weight")
        writer.note(norm, rows, weight, out, Depends(NODES, count // writer.nodes), width, float(added), threads)
    return out


def _is_one_head(rows: Tensor) -> bool:
    """Whether these are ``[1, 1, N, D]`` of a layer that is recorded: one head's, which lie as if nodes came first."""
    writer = recorder()
    return writer is not None and rows.shape[1] == 1 and rows.shape[2] == writer.nodes > 1


@cache
def _gates() -> dict[type, str]:
    """What classes of activations let through."""
    from transformers import activations

    kinds: dict[type, str] = {nn.SiLU: SILU}
    for name, kind in (("SiLUActivation", SILU), ("GELUTanh", GELU_TANH), ("PytorchGELUTanh", GELU_TANH)):
        if isinstance(found := getattr(activations, name, None), type):
            kinds[found] = kind
    return kinds


def kind_of(activation: Any) -> str | None:
    kind = _gates().get(type(activation))
    if kind == GELU_TANH and not isinstance(getattr(activation, "act", functools.partial(len)), functools.partial):
        return None  # transformers' own formula, operation by operation
    return kind


def passed(gates: Any, rows: Any, kind: str) -> Tensor | None:
    if not (is_plain(gates) and is_plain(rows) and gates.dtype == rows.dtype and gates.shape == rows.shape):
        return None
    count = gates.numel()
    writer = recorder()
    if count % LANES or not (gates.is_contiguous() and rows.is_contiguous()):
        return None
    try:
        let = gate(gates.dtype == torch.bfloat16, kind)
    except NotHere:
        return None
    out = torch.empty_like(gates) if writer is None else writer.empty(tuple(gates.shape), gates.dtype)
    threads = torch.get_num_threads()
    let(gates.data_ptr(), rows.data_ptr(), out.data_ptr(), count, threads)
    if writer is not None:
        writer.note(let, gates, rows, out, Depends(NODES, count // writer.nodes), threads)
    return out


def turned(query: Any, key: Any, cos: Any, sin: Any) -> tuple[Tensor, Tensor] | None:
    parts = query, key, cos, sin
    if not all(is_plain(part) and part.dtype == query.dtype and part.stride(-1) == 1 for part in parts):
        return None
    if query.dim() != 4 or key.dim() != 4 or cos.dim() != 3 or cos.shape != sin.shape or query.numel() > MOST:
        return None
    batch, _, nodes, size = query.shape
    fits = key.shape[::2] == query.shape[::2] and key.shape[3] == size and size % (2 * LANES) == 0
    if not fits or tuple(cos.shape) not in ((batch, nodes, size), (1, nodes, size)):
        return None
    if not (cos.is_contiguous() and sin.is_contiguous()):
        return None
    try:
        rotate = rotation(query.dtype == torch.bfloat16)
    except NotHere:
        return None
    angles = cos.stride(0) * cos.element_size() if cos.shape[0] > 1 else 0
    return _rotated(rotate, query, cos, sin, angles), _rotated(rotate, key, cos, sin, angles)


def _rotated(rotate: Any, rows: Tensor, cos: Tensor, sin: Tensor, angles: int) -> Tensor:
    """``[B, H, N, D]``, of which the nodes lie apart, as they do in what the layer's products give."""
    batch, heads, nodes, size = rows.shape
    shape, writer = (batch, nodes, heads, size), recorder()
    out = rows.new_empty(shape) if writer is None else writer.empty(shape, rows.dtype)
    bytes_ = rows.element_size()
    by_batch, by_head, by_node = (stride * bytes_ for stride in rows.stride()[:3])
    rotate(
        rows.data_ptr(), cos.data_ptr(), sin.data_ptr(), out.data_ptr(),
        *rows.shape, by_batch, by_head, by_node, angles,
    )  # fmt: skip
    if writer is not None:
        if nodes > 1 and by_node < by_head:
            writer.fail("heads that lie apart")
        writer.note(rotate, rows, cos, sin, out, 1, heads, Depends(NODES), size, 0, by_head, by_node, 0)
    return out.transpose(1, 2)
