"""Searches over the vocabulary axis, where a step spends what the model leaves.

On a CPU they are machine code (:mod:`racer.scan`), in one thread: 64 rows of 49k bf16 scores take 0.4 ms for the 15
best of each and 1.1 for their probabilities; torch's operations, put together as well as they go, took 1.5 and 1.7 in
two.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

log = logging.getLogger(__name__)

BLOCK = 64
"""Scores that share one maximum: the k best are searched for in the blocks that hold them."""
LOG2_E = 1.4426950408889634
BITS = {
    torch.bfloat16: (torch.int16, 0x7F80),
    torch.float16: (torch.int16, 0x7C00),
    torch.float32: (torch.int32, 0x7F80_0000),
    torch.float64: (torch.int64, 0x7FF0_0000_0000_0000),
}
"""Whole numbers as wide as each kind of float, and infinity's."""


class Machine(NamedTuple):
    """The searches for one kind of whole numbers, as machine code."""

    find_best: Callable[..., None]
    find_peaks: Callable[..., None]


@cache
def _machine(kind: torch.dtype) -> Machine:
    """Compiles them, or loads them from the disk."""
    from racer import scan  # with numba, which plain decoding of one row does without
    from racer.compiled import direct, is_kept

    if not (is_kept(scan.find_best) and is_kept(scan.find_peaks)):
        log.warning("compiling searches over the vocabulary for this machine: a few seconds, once")
    bits = torch.zeros(1, 1, dtype=kind).numpy()
    limits, keys, maxima = (np.zeros(size, bits.dtype) for size in (2, BLOCK, 1))
    best = bits, limits, keys, maxima, np.zeros((1, 1), np.int64)
    peaks = bits, np.zeros(1, np.float32), np.float32(1), np.zeros(1, np.float32)
    scan.find_best(*best)
    scan.find_peaks(*peaks)
    return Machine(direct(scan.find_best, *best), direct(scan.find_peaks, *peaks))


def make_ready(dtype: torch.dtype) -> None:
    """Compile what searches on a CPU need for such scores, and for what processors make of them."""
    for kind in {BITS[dtype][0], torch.int32}:
        _machine(kind)


class _Scratch(threading.local):
    """Memory to work in, kept for the next call: what is mapped afresh by each takes longer than the search."""

    def __init__(self) -> None:
        self.keys: dict[torch.dtype, tuple[NDArray[Any], NDArray[Any]]] = {}

    def keys_of(self, kind: torch.dtype, size: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Keys of a row of ``size`` scores, filled up to whole blocks, and a maximum for each."""
        blocks = -(-size // BLOCK)
        if kind not in self.keys or len(self.keys[kind][1]) != blocks:
            limits = torch.iinfo(kind)
            keys = torch.full((blocks * BLOCK,), limits.min, dtype=kind).numpy()
            self.keys[kind] = keys, np.empty(blocks, keys.dtype)
        keys, maxima = self.keys[kind]
        keys[size:] = torch.iinfo(kind).min  # of another size there may be something else
        return keys, maxima


_scratch = _Scratch()


def best(scores: Tensor) -> Tensor:
    """Index of the largest score, the first one among equals: ``[M, V] -> [M]``, as ``argmax`` gives it."""
    if not _searchable(scores, 1) or scores.shape[0] == 1:
        return scores.float().argmax(-1) if scores.dtype in (torch.bfloat16, torch.float16) else scores.argmax(-1)
    return _find(scores, 1)[:, 0]


def top(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` largest scores and their indices, best first: ``[M, V] -> [M, k], [M, k]``. ``k`` is cut to V."""
    k = min(k, scores.shape[-1])
    if not _searchable(scores, k):
        values, ids = scores.topk(k)
        return values, ids
    ids = _find(scores, k)
    return scores.gather(1, ids), ids


def _searchable(scores: Tensor, k: int) -> bool:
    """Whether machine code serves; of a small vocabulary torch sorts in less time than k are picked one by one."""
    return scores.device.type == "cpu" and scores.dtype in BITS and scores.shape[-1] >= max(BLOCK * k, 1)


def _find(scores: Tensor, k: int) -> Tensor:
    kind, infinite = BITS[scores.dtype]
    bits = scores.detach().contiguous().view(kind).numpy()
    ids = np.empty((len(bits), k), np.int64)
    keys, maxima = _scratch.keys_of(kind, bits.shape[1])
    limits = np.array((torch.iinfo(kind).max, infinite), bits.dtype)
    _machine(kind).find_best(bits, limits, keys, maxima, ids)
    return torch.from_numpy(ids)


def probabilities(logits: Tensor, values: Tensor, temperature: float = 1.0) -> Tensor:
    """Softmax of ``logits [M, V] / temperature`` at the ``values [M, k]`` that are their largest, best first."""
    wide = values.float()
    if logits.device.type == "cpu":
        return _peaks(logits, wide[:, 0], temperature)[:, None] * ((wide - wide[:, :1]) / temperature).exp()
    return (wide / temperature - (logits.float() / temperature).logsumexp(-1, keepdim=True)).exp()


def _peaks(logits: Tensor, best: Tensor, temperature: float) -> Tensor:
    """``[M]`` the largest probability of each row, whose largest logits are ``best [M]``."""
    if logits.dtype not in (torch.bfloat16, torch.float32):  # row by row, so that there is no second copy of all
        rows = zip(logits[:, None], best[:, None], strict=True)
        return torch.cat([_peaks(row.float(), peak, temperature) for row, peak in rows])
    kind, _ = BITS[logits.dtype]
    bits, peaks = logits.detach().contiguous().view(kind).numpy(), np.empty(len(best), np.float32)
    sharpness = np.float32(LOG2_E / temperature)
    _machine(kind).find_peaks(bits, best.detach().contiguous().numpy(), sharpness, peaks)
    return torch.from_numpy(peaks)
