"""Attention of a tree of few nodes in machine code, where torch's needs longer to begin than to do it."""

from __future__ import annotations

import ctypes
from typing import Any

import attrs
import torch
from torch import Tensor

from racer.core.layer_program import NODES, SLOTS, Depends
from racer.core.recording import DTYPES, Recorder, bits_of, recorder
from racer.kernels.native.assembling import Function, NotHere
from racer.kernels.native.attention import FACTS, attention
from racer.kernels.native.tiled_attention import tiled_attention
from racer.kernels.native.tiled_products import tiles_here
from racer.kernels.native.tiles import STEP

FEW = 32
"""Nodes up to which ours is faster by itself."""
_Facts = ctypes.c_int64 * len(FACTS)


def attended_by_few(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float | None) -> Tensor | None:
    """What ``sdpa`` gives, up to rounding: ``[B, N, H, D]``; None where torch shall do it.

    :param query: ``[B, H, N, D]``
    :param key, value: ``[B, H / groups, K, D]``
    :param mask: ``[B or 1, 1, N, K]``, additive.
    """
    batch, heads, nodes, size = query.shape
    slots = key.shape[2]
    parts, writer = (query, key, value, mask), recorder()
    if (nodes > FEW and writer is None) or query.dtype not in DTYPES or size % 16 or size > 256:
        return None
    if mask.dim() != 4 or mask.shape[1] != 1 or mask.shape[2:] != (nodes, slots) or mask.shape[0] not in (1, batch):
        return None
    if key.shape != value.shape or key.shape[0] != batch or key.shape[3] != size or heads % key.shape[1]:
        return None
    if torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
        return None
    for part in parts:
        if type(part) is not Tensor or part.dtype != query.dtype or part.device.type != "cpu" or part.stride(3) != 1:
            return None
    try:
        attend = _code(query)
    except NotHere:
        return None
    shape = (batch, nodes, heads, size)
    out = query.new_empty(shape) if writer is None else writer.empty(shape, query.dtype)
    bytes_, groups, threads = query.element_size(), key.shape[1], torch.get_num_threads()
    scale = size**-0.5 if scaling is None else scaling
    steps = [stride * bytes_ for part in (query, key, value) for stride in part.stride()[:3]]
    mask_steps = [mask.stride(0) * bytes_ if mask.shape[0] > 1 else 0, mask.stride(2) * bytes_]
    places = [part.data_ptr() for part in (*parts, out)]
    facts = _Facts(*places, batch, groups, heads // groups, nodes, slots, *steps, *mask_steps, bits_of(scale), threads)
    attend(ctypes.addressof(facts))
    if writer is not None:
        _note(writer, query, key, value, mask, out, scale)
    return out


def _code(query: Tensor) -> Function:
    """:raises NotHere: there is none."""
    nodes, size = query.shape[2:]
    if query.dtype is torch.bfloat16 and nodes > 1 and size % STEP == 0 and tiles_here():
        return tiled_attention(size)
    return attention(query.dtype is torch.bfloat16, size)


def _note(
    writer: Recorder, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, out: Tensor, scaling: float
) -> None:
    """Write down what was done. Keys and values are the cache's, and stay where they are."""
    bytes_, groups, heads = query.element_size(), key.shape[1], query.shape[1]
    if query.stride(2) < query.stride(1) and query.shape[2] > 1:
        writer.fail("heads that lie apart")
    if mask.stride(2) != mask.shape[3] and mask.shape[2] > 1:
        writer.fail("a mask with gaps")
    steps: list[Any] = [0, *(stride * bytes_ for stride in query.stride()[1:3])]  # of one row, so that none is next
    slots = writer.slots(key), writer.slots(value)
    for name, part in zip(slots, (key, value), strict=True):
        steps += [0, attrs.evolve(name, by_head=True), part.stride(2) * bytes_]
    places = query, *slots, mask, out
    counts = 1, groups, heads // groups, Depends(NODES), Depends(SLOTS)
    ends = 0, Depends(SLOTS, bytes_), float(scaling), torch.get_num_threads()
    writer.note(_code(query), *places, *counts, *steps, *ends)
