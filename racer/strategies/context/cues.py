"""What the model thought after a context when it last saw it: the best next tokens and their probabilities."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from racer.strategies.context.compiled import Number, compiled
from racer.strategies.context.hashing import NO_TOKEN, Context, hash_of, slot_of, tag_of

LONGEST = 4
"""Tokens of the longest context that has cues of its own."""
KEPT_TRUSTS = 8
"""How far a slot's first token may be trusted: how often it came up again in a row (0 to 3), and 4 more if the model
was asked about a token that stayed rather than about a rejected guess."""
TRUSTS = 2 * KEPT_TRUSTS
"""The same, and as many more if that was in the request that asks now."""

Ids = NDArray[np.int32]
Probs = NDArray[np.float32]


class Cues(NamedTuple):
    """A hashed table of fixed size, a region for each context length, so that long contexts, of which there are many,
    cannot push out short ones. A newer context takes the slot of an older one; a tag tells them apart."""

    tags: NDArray[np.uint32]
    """``[LONGEST * slots]``, 0 where a slot is empty."""
    ids: Ids
    """``[LONGEST * slots, k]`` best first; -1 where there are fewer."""
    probs: Probs
    """``[LONGEST * slots, k]``"""
    trust: NDArray[np.uint8]
    """``[LONGEST * slots]`` see :data:`KEPT_TRUSTS`."""
    asker: NDArray[np.uint16]
    """``[LONGEST * slots]`` number of the request in which the model was asked; it wraps."""
    asked: NDArray[np.int64]
    """``[1]`` requests so far."""

    @classmethod
    def of(cls, slots: int, k: int) -> Cues:
        """An empty one of ``slots`` (a power of two) a context length, in ``7 + 8 k`` bytes a slot."""
        rows = LONGEST * slots
        return cls(
            np.zeros(rows, np.uint32),
            np.full((rows, k), NO_TOKEN, np.int32),
            np.zeros((rows, k), np.float32),
            np.zeros(rows, np.uint8),
            np.zeros(rows, np.uint16),
            np.zeros(1, np.int64),
        )


@compiled
def _place(cues: Cues, n: int, found: np.uint64) -> Number:
    slots = len(cues.tags) // LONGEST
    return (n - 1) * slots + slot_of(found, slots)


@compiled
def remember(cues: Cues, context: Context, ids: Ids, probs: Probs, accepted: bool, asker: int) -> None:
    """Keep the best next tokens after the last 1, 2, ... tokens of ``context``."""
    for n in range(1, LONGEST + 1):
        if context[n - 1] == NO_TOKEN:
            break
        found = hash_of(context, 0, n)
        slot = _place(cues, n, found)
        again = cues.tags[slot] == tag_of(found) and cues.ids[slot, 0] == ids[0]
        agreed: Number = min((cues.trust[slot] & 3) + 1, 3) if again else 0
        cues.trust[slot] = agreed + 4 * accepted
        cues.tags[slot] = tag_of(found)
        cues.asker[slot] = asker
        for j in range(cues.ids.shape[1]):
            cues.ids[slot, j] = ids[j] if j < len(ids) else NO_TOKEN
            cues.probs[slot, j] = probs[j] if j < len(ids) else 0


@compiled
def find(cues: Cues, context: Context, n: int) -> Number:
    """The slot of the last ``n`` tokens of ``context``; -1 if they were never scored."""
    if context[n - 1] == NO_TOKEN:
        return -1
    found = hash_of(context, 0, n)
    slot = _place(cues, n, found)
    return slot if cues.tags[slot] == tag_of(found) else -1


@compiled
def trust(cues: Cues, slot: int, asker: int) -> Number:
    """0 to ``TRUSTS - 1``, for a request of number ``asker``."""
    return cues.trust[slot] + KEPT_TRUSTS * (cues.asker[slot] == asker)
