"""Memory of a hash table: all that is known of a slot lies together, and all tables are laid out alike.

In real decoding every look at a slot misses the processor's caches, because a forward pass in between reads the whole
model. So a slot of 15 tokens is two cache lines, and :func:`racer.strategies.context.prefetch.prefetch` asks for them
before they are needed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from racer.kernels.jit import Number, compiled
from racer.strategies.context.huge_pages import zeros
from racer.strategies.context.prefetch import CACHE_LINE

Ids = NDArray[np.int32]
Probs = NDArray[np.float32]
Words = NDArray[np.int32]
"""``[slots, 2 + 2 k]``: a tag (0 where the slot is empty), a word for whatever the table notes, k ids (best first; -1
where there are fewer) and the bits of their k probabilities."""
Reals = NDArray[np.float32]
"""The same memory as the words, read as floats."""

TAG = 0
NOTE = 1
IDS = 2
"""The column of the first id."""


def empty(slots: int, k: int) -> tuple[Words, Reals]:
    """An empty one, in ``8 + 8 k`` bytes a slot."""
    size, spare = slots * (IDS + 2 * k), CACHE_LINE // 4
    memory = zeros(size + spare, np.int32)
    first = -(memory.ctypes.data // 4) % spare  # slots of k = 15 fill whole cache lines
    words = memory[first : first + size].reshape(slots, -1)
    return words, words.view(np.float32)


def copy(words: Words) -> tuple[Words, Reals]:
    """Its twin, which begins as :func:`empty` lets it begin; a plain copy would lie anywhere."""
    twin, reals = empty(len(words), words.shape[1] // 2 - 1)
    twin[:] = words
    return twin, reals


@compiled
def probs_column(words: Words) -> Number:
    """The column of the first probability, p: ``words[slot, IDS:p]`` are ids, ``reals[slot, p:]`` their probabilities.
    (Machine code without a run-time returns no arrays.)"""
    return IDS // 2 + words.shape[1] // 2


@compiled
def slot_if_tagged(words: Words, slot: Number, tag: Number) -> Number:
    """``slot`` if it carries ``tag``, else -1."""
    return slot if words[slot, TAG] == tag else -1
