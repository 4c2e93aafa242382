"""Searches over the vocabulary axis, where a step spends what the model leaves.

On a CPU they are machine code (:mod:`racer.kernels.vocab_scan`), in one thread: 64 rows of 49k bf16 scores take 0.3 ms
for the best of each, and 1.2 for the 15 best with their probabilities; torch's operations, put together as well as they
go, took 3.2 for these in two.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from racer.kernels.float_bits import BITS, BLOCK

log = logging.getLogger(__name__)

LOG2_E = 1.4426950408889634


class VocabKernels(NamedTuple):
    """The searches for one kind of scores, as machine code."""

    find_best: Callable[..., None]
    find_likely: Callable[..., None] | None
    """For bf16 and float32; others are made float32 first."""
    limits: NDArray[Any]
    """The largest whole number of the kind, and infinity's bits."""

    def tools(self, size: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """What both take to search in rows of ``size`` scores."""
        kind = self.limits.dtype
        return self.limits, np.empty(BLOCK, kind), np.empty(-(-size // BLOCK), kind)


@cache
def _kernels(dtype: torch.dtype) -> VocabKernels:
    """Compiles them, or loads them from the disk."""
    from racer.kernels import vocab_scan  # with numba, which plain decoding of one row does without
    from racer.kernels.jit import direct, is_kept

    if not (is_kept(vocab_scan.find_best) and is_kept(vocab_scan.find_likely)):
        log.warning("compiling searches over the vocabulary for this machine: a few seconds, once")
    kind, infinite = BITS[dtype]
    bits = torch.zeros(1, 1, dtype=kind).numpy()
    kernels = VocabKernels(vocab_scan.find_best, None, np.array((torch.iinfo(kind).max, infinite), bits.dtype))
    best = bits, *kernels.tools(1), np.zeros((1, 1), np.int64)
    vocab_scan.find_best(*best)
    kernels = kernels._replace(find_best=direct(vocab_scan.find_best, *best))
    if dtype not in (torch.bfloat16, torch.float32):
        return kernels
    likely = *best[:-1], np.float32(1), best[-1], np.zeros((1, 1), np.float32)
    vocab_scan.find_likely(*likely)
    return kernels._replace(find_likely=direct(vocab_scan.find_likely, *likely))


def make_ready(dtype: torch.dtype) -> None:
    """Compile what searches on a CPU need for such scores, and for what processors make of them."""
    for kind in (dtype, torch.float32):
        _kernels(kind)


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


def likely(logits: Tensor, k: int, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """The ``k`` largest of ``logits [M, V]``, best first: indices ``[M, k]``, and ``[M, k]`` float32 what the softmax
    of ``logits / temperature`` is there. ``k`` is cut to V."""
    if logits.dtype not in (torch.bfloat16, torch.float32):
        if logits.device.type == "cpu" and len(logits) > 1:  # row by row, so that there is no second copy of all
            rows = [likely(row, k, temperature) for row in logits[:, None]]
            return torch.cat([ids for ids, _ in rows]), torch.cat([probs for _, probs in rows])
        logits = logits.float()
    k = min(k, logits.shape[-1])
    if _searchable(logits, k):
        return _find_likely(logits, k, temperature)
    values, ids = logits.topk(k)
    whole = (logits.float() / temperature).logsumexp(-1, keepdim=True)
    return ids, (values.float() / temperature - whole).exp()


def first_is_best(scores: Tensor, k: int) -> bool:
    """Whether the first of the ``k`` best that :func:`top` and :func:`likely` find is what ``generate`` takes for the
    best one, in ties and with NaNs too."""
    return _searchable(scores, k) and scores.dtype != torch.float64  # that is narrowed first


def _searchable(scores: Tensor, k: int) -> bool:
    """Whether machine code serves; of a small vocabulary torch sorts in less time than k are picked one by one."""
    return scores.device.type == "cpu" and scores.dtype in BITS and k > 0 and scores.shape[-1] >= BLOCK * k


def _bits(scores: Tensor) -> NDArray[Any]:
    """Scores as whole numbers."""
    bits: NDArray[Any] = scores.contiguous().view(BITS[scores.dtype][0]).numpy()
    return bits


def _find(scores: Tensor, k: int) -> Tensor:
    bits, kernels = _bits(scores), _kernels(scores.dtype)
    ids = np.empty((len(bits), k), np.int64)
    kernels.find_best(bits, *kernels.tools(bits.shape[1]), ids)
    return torch.from_numpy(ids)


def _find_likely(logits: Tensor, k: int, temperature: float) -> tuple[Tensor, Tensor]:
    bits, kernels = _bits(logits), _kernels(logits.dtype)
    ids, probs = np.empty((len(bits), k), np.int64), np.empty((len(bits), k), np.float32)
    assert kernels.find_likely is not None
    kernels.find_likely(bits, *kernels.tools(bits.shape[1]), np.float32(LOG2_E / temperature), ids, probs)
    return torch.from_numpy(ids), torch.from_numpy(probs)
