"""Memory of a hashed table: what is known of a slot lies together, and all tables are laid out alike.

In real decoding every look at a slot misses the processor's caches, because a forward pass in between reads the whole
model. So a slot is two cache lines and a few bytes, and :func:`racer.strategies.context.fetch.fetch` asks for them
before they are needed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from racer.strategies.context.compiled import Number, compiled
from racer.strategies.context.fetch import LINE, fetch

Ids = NDArray[np.int32]
Probs = NDArray[np.float32]
Heads = NDArray[np.int32]
"""``[slots, 2]`` a tag (0 where the slot is empty), and a word for whatever the table notes."""
Words = NDArray[np.int32]
"""``[slots, 2 k]``: k ids (best first; -1 where there are fewer) and the bits of their k probabilities."""
Reals = NDArray[np.float32]
"""The same memory as the words, read as floats."""

TAG = 0
NOTE = 1


def empty(slots: int, k: int) -> tuple[Heads, Words, Reals]:
    """An empty one, in ``8 + 8 k`` bytes a slot; a page of memory is taken when it is first written to."""
    size, spare = slots * 2 * k, LINE // 4
    memory = np.zeros(size + spare, np.int32)
    first = -(memory.ctypes.data // 4) % spare  # slots of k = 16 fill whole cache lines
    words = memory[first : first + size].reshape(slots, -1)
    return np.zeros((slots, 2), np.int32), words, words.view(np.float32)


@compiled
def middle(words: Words) -> Number:
    """The column of the first probability: ``words[slot, :middle]`` are ids, ``reals[slot, middle:]`` their
    probabilities. (Machine code without a run-time returns no arrays.)"""
    return words.shape[1] // 2


@compiled
def slot_if(heads: Heads, slot: Number, tag: Number) -> Number:
    """``slot`` if it carries ``tag``, else -1."""
    return slot if heads[slot, TAG] == tag else -1


@compiled
def expect(heads: Heads, words: Words, slot: Number) -> None:
    """The slot will be looked at soon."""
    fetch(heads, slot)
    fetch(words, slot)
