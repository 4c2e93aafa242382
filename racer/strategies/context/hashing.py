"""Hash keys of the last n tokens. A context is an int32 array with the latest token first, -1 where the text begins."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from racer.kernels.jit import Number, compiled

Context = NDArray[np.int32]

CONTEXT_WIDTH = 32
"""Tokens of a whole context: the longest match that is told from a longer one."""
NO_TOKEN = -1
"""Before a text begins, and between texts."""


def context_of(tokens: Sequence[int], end: int) -> Context:
    """``[CONTEXT_WIDTH]`` the tokens before ``end``, the latest first."""
    context = np.full(CONTEXT_WIDTH, NO_TOKEN, np.int32)
    part = tokens[max(0, end - CONTEXT_WIDTH) : end]
    context[: len(part)] = part[::-1]
    return context


@compiled
def lengthen(longer: Context, context: Context, token: Number) -> None:
    """Fill ``longer`` with ``context`` and one more token."""
    longer[0] = token
    for i in range(1, len(longer)):
        longer[i] = context[i - 1]


@compiled
def _mix(x: np.uint64) -> np.uint64:
    """A 64-bit finaliser: bijective, full avalanche (after MurmurHash3's)."""
    x = (x ^ (x >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    x = (x ^ (x >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return x ^ (x >> np.uint64(33))


@compiled
def extend_key(key: np.uint64, token: int) -> np.uint64:
    """The key of one token more."""
    return _mix(key ^ (np.uint64(token + 2) * np.uint64(0x9E3779B97F4A7C15)))


@compiled
def key_of(context: Context, first: int, last: int) -> np.uint64:
    """64 bits of ``context[first:last]`` and of ``first``; :func:`extend_key` makes it that of one token more."""
    key = np.uint64(first)
    for i in range(first, last):
        key = extend_key(key, context[i])
    return key


@compiled
def slot_of(key: np.uint64, slots: int) -> Number:
    """Where a key lives among ``slots``, a power of two: its low bits."""
    return np.int64(key & np.uint64(slots - 1))


@compiled
def tag_of(key: np.uint64) -> np.int32:
    """What tells the keys of one slot apart: the high bits, never 0."""
    return np.int32(key >> np.uint64(33)) | np.int32(1)
