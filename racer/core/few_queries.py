"""Attention of a tree of few nodes in machine code, where torch's needs longer to begin than to do it."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from racer.kernels.native.assembling import NotHere
from racer.kernels.native.attention import FACTS, attention

NODES = 32
"""Up to so many, ours is faster."""
ALONE = 1 << 19
"""Products of numbers up to which one thread has done it before others wake up."""
DTYPES = (torch.bfloat16, torch.float32)
_Facts = ctypes.c_int64 * len(FACTS)


def attended_by_few(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float | None) -> Tensor | None:
    """What ``sdpa`` gives, up to rounding: ``[B, N, H, D]``; None where torch shall do it.

    :param query: ``[B, H, N, D]``
    :param key, value: ``[B, H / groups, K, D]``
    :param mask: ``[B or 1, 1, N, K]``, additive.
    """
    batch, heads, nodes, size = query.shape
    slots = key.shape[2]
    parts = query, key, value, mask
    if nodes > NODES or query.dtype not in DTYPES or size % 16 or size > 256 or key.shape != value.shape:
        return None
    if mask.dim() != 4 or mask.shape[1] != 1 or mask.shape[2:] != (nodes, slots) or mask.shape[0] not in (1, batch):
        return None
    if key.shape[0] != batch or key.shape[3] != size or heads % key.shape[1]:
        return None
    if torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
        return None
    for part in parts:
        if type(part) is not Tensor or part.dtype != query.dtype or part.device.type != "cpu" or part.stride(3) != 1:
            return None
    try:
        attend = attention(query.dtype == torch.bfloat16, size)
    except NotHere:
        return None
    out = query.new_empty(batch, nodes, heads, size)  # torch.empty has a default device
    bytes_, groups = query.element_size(), key.shape[1]
    steps = [stride * bytes_ for part in (query, key, value) for stride in part.stride()[:3]]
    steps += [mask.stride(0) * bytes_ if mask.shape[0] > 1 else 0, mask.stride(2) * bytes_]
    places = [part.data_ptr() for part in (*parts, out)]
    facts = _Facts(*places, batch, groups, heads // groups, nodes, slots, *steps)
    threads = torch.get_num_threads() if batch * heads * nodes * slots * size > ALONE else 1
    attend(ctypes.addressof(facts), size**-0.5 if scaling is None else scaling, threads)
    return out
