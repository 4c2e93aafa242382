"""Text so far: a ring of tokens, and for each pair of tokens (a gram) its occurrences, the latest first."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from racer.kernels.jit import Number, compiled
from racer.strategies.context.hashing import NO_TOKEN, Context, extend_key, slot_of
from racer.strategies.context.huge_pages import zeros
from racer.strategies.context.prefetch import prefetch

GRAM = 2
"""Tokens that must match before anything is called a match."""


class History(NamedTuple):
    """A ring buffer of fixed size: new tokens push out the oldest. Positions count all tokens ever appended."""

    tokens: NDArray[np.int32]
    """``[capacity]``"""
    older: NDArray[np.int32]
    """``[capacity]`` for the gram that ends at a position: how far before it one of its bucket ended; 0: nowhere."""
    latest: NDArray[np.int64]
    """``[capacity]`` by hash: where the latest gram of this bucket ends; -1: nowhere."""
    length: NDArray[np.int64]
    """``[1]`` tokens ever appended."""

    @classmethod
    def of(cls, capacity: int) -> History:
        """An empty one for at least ``capacity`` tokens, in 16 bytes a token of the next power of two."""
        size = 1 << max(4, (capacity - 1).bit_length())
        history = cls(zeros(size, np.int32), zeros(size, np.int32), zeros(size, np.int64), np.zeros(1, np.int64))
        history.tokens[:], history.latest[:] = NO_TOKEN, -1
        return history


@compiled
def append(history: History, tokens: NDArray[np.int32], gram: int) -> None:
    """Write ``tokens`` behind what is there. A gram is indexed once the token after it is known."""
    size = len(history.tokens)
    last = size - 1  # & last is the remainder by a power of two
    for token in tokens:
        end = history.length[0] - 1
        whole, key = end >= gram - 1, np.uint64(0)
        for i in range(gram):
            key = extend_key(key, history.tokens[(end - i) & last])
            whole = whole and history.tokens[(end - i) & last] != NO_TOKEN
        if whole:
            bucket = slot_of(key, size)
            before = history.latest[bucket]
            history.older[end & last] = end - before if before >= 0 and end - before < size else 0
            history.latest[bucket] = end
        history.tokens[(end + 1) & last] = token
        history.length[0] = end + 2


@compiled
def token_at(history: History, position: int) -> Number:
    """:data:`NO_TOKEN` before the beginning, behind the end, and where the ring has been overwritten."""
    length, size = history.length[0], len(history.tokens)
    if position < 0 or position >= length or position < length - size:
        return NO_TOKEN
    return history.tokens[position & (size - 1)]


@compiled
def next_token(history: History, end: int) -> Number:
    """What came after position ``end``; :data:`NO_TOKEN` where nothing did."""
    return token_at(history, end + 1)


@compiled
def match_length(history: History, end: int, context: Context) -> Number:
    """How many tokens up to position ``end`` are those of ``context``, at most all of it."""
    last, oldest = len(history.tokens) - 1, max(0, history.length[0] - len(history.tokens))
    found = 0
    while (
        found < len(context)
        and end - found >= oldest
        and context[found] != NO_TOKEN
        and history.tokens[(end - found) & last] == context[found]
    ):
        found += 1
    return found


@compiled
def latest_end(history: History, context: Context, gram: int) -> Number:
    """Where a text last had the hash of the last tokens of ``context``; -1 if nowhere."""
    key = np.uint64(0)
    for i in range(gram):
        if context[i] == NO_TOKEN:
            return -1
        key = extend_key(key, context[i])
    end = history.latest[slot_of(key, len(history.latest))]
    return end if end >= history.length[0] - len(history.tokens) else -1


@compiled
def prefetch_gram(history: History, context: Context, gram: int) -> None:
    """It will soon be asked where it had the last tokens of ``context``."""
    key = np.uint64(0)
    for i in range(gram):
        key = extend_key(key, context[i])
    prefetch(history.latest, slot_of(key, len(history.latest)))


@compiled
def earlier_end(history: History, end: int) -> Number:
    """The occurrence before the one at ``end``; -1 if there is none, or the ring has overwritten it."""
    back = history.older[end & (len(history.tokens) - 1)]
    earlier = end - back
    return earlier if back > 0 and earlier >= history.length[0] - len(history.tokens) else -1
