"""Memory of a hashed table: a line of words a slot, so that a look at a slot misses the processor's caches once.

In real decoding every look misses: between two of them, the forward pass reads the whole model.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from racer.strategies.context.compiled import Number, compiled

Ids = NDArray[np.int32]
Probs = NDArray[np.float32]
Words = NDArray[np.int32]
"""``[slots, HEAD + 2 k]``: a tag (0 where the slot is empty), a word for whatever the table notes, k ids (best first;
-1 where there are fewer) and the bits of their k probabilities."""
Reals = NDArray[np.float32]
"""The same memory, read as floats."""

TAG = 0
NOTE = 1
HEAD = 2
ALIGNED = 128
"""Bytes; processors fetch cache lines of 64 bytes, and most of them in such pairs. With k = 15, a slot is one pair."""


def empty_table(slots: int, k: int) -> tuple[Words, Reals]:
    """An empty one, in ``8 + 8 k`` bytes a slot; a page of memory is taken when it is first written to."""
    size, spare = slots * (HEAD + 2 * k), ALIGNED // 4
    memory = np.zeros(size + spare, np.int32)
    first = -(memory.ctypes.data // 4) % spare
    words = memory[first : first + size].reshape(slots, -1)
    return words, words.view(np.float32)


@compiled
def middle(words: Words) -> Number:
    """The column of the first probability: ``words[slot, HEAD:middle]`` are ids, ``reals[slot, middle:]`` their
    probabilities. (Machine code without a run-time returns no arrays.)"""
    return (HEAD + words.shape[1]) // 2


@compiled
def slot_if(words: Words, slot: Number, tag: Number) -> Number:
    """``slot`` if it carries ``tag``, else -1."""
    return slot if words[slot, TAG] == tag else -1
