"""What the model thought after a context when it last saw it: the best next tokens and their probabilities."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from racer.kernels.jit import Number, compiled
from racer.strategies.context import table
from racer.strategies.context.fetch import fetch
from racer.strategies.context.hashing import NO_TOKEN, Context, hash_of, hashed, slot_of, tag_of
from racer.strategies.context.table import Ids, Probs, Reals, Words

LONGEST = 4
"""Tokens of the longest context that has cues of its own."""
KEPT_TRUSTS = 8
"""How far a slot's first token may be trusted: how often it came up again in a row (0 to 3), and 4 more if the model
was asked about a token that stayed rather than about a rejected guess."""
TRUSTS = 2 * KEPT_TRUSTS
"""The same, and as many more if that was in the request that asks now."""
ASKERS = 2**16
"""Requests that a slot tells apart; their numbers wrap."""


class Cues(NamedTuple):
    """A hashed table of fixed size, a region for each context length, so that long contexts, of which there are many,
    cannot push out short ones. A newer context takes the slot of an older one; a tag tells them apart."""

    words: Words
    """``[LONGEST * slots, 2 + 2 k]``; noted is ``KEPT_TRUSTS`` times the number of the request in which the model was
    asked, plus how far the first token may be trusted."""
    reals: Reals
    asked: NDArray[np.int64]
    """``[1]`` requests so far."""

    @classmethod
    def of(cls, slots: int, k: int) -> Cues:
        """An empty one of ``slots`` (a power of two) a context length, in ``8 + 8 k`` bytes a slot."""
        return cls(*table.empty(LONGEST * slots, k), np.zeros(1, np.int64))


@compiled
def _place(cues: Cues, n: int, found: np.uint64) -> Number:
    slots = len(cues.words) // LONGEST
    return (n - 1) * slots + slot_of(found, slots)


@compiled
def remember(cues: Cues, context: Context, ids: Ids, probs: Probs, accepted: bool, asker: int) -> None:
    """Keep the best next tokens after the last 1, 2, ... tokens of ``context``."""
    split, found = table.middle(cues.words), hash_of(context, 0, 0)
    for n in range(1, LONGEST + 1):
        if context[n - 1] == NO_TOKEN:
            break
        found = hashed(found, context[n - 1])
        slot = _place(cues, n, found)
        words = cues.words[slot]
        kept_ids, kept_probs = words[table.IDS : split], cues.reals[slot, split:]
        again = words[table.TAG] == tag_of(found) and kept_ids[0] == ids[0]
        agreed: Number = min((words[table.NOTE] & 3) + 1, 3) if again else 0
        words[table.TAG] = tag_of(found)
        words[table.NOTE] = KEPT_TRUSTS * asker + agreed + 4 * accepted
        for j in range(len(kept_ids)):
            kept_ids[j] = ids[j] if j < len(ids) else NO_TOKEN
            kept_probs[j] = probs[j] if j < len(ids) else 0


@compiled
def find(cues: Cues, context: Context, slots: NDArray[np.int64]) -> None:
    """Put the slots of the last 1, 2, ... tokens of ``context`` into ``slots [LONGEST]``; -1: never scored."""
    found = hash_of(context, 0, 0)
    for n in range(1, LONGEST + 1):
        found = hashed(found, context[n - 1])
        known = context[n - 1] != NO_TOKEN
        slots[n - 1] = table.slot_if(cues.words, _place(cues, n, found), tag_of(found)) if known else -1


@compiled
def expect(cues: Cues, context: Context) -> None:
    """The table will be asked about ``context`` soon."""
    found = hash_of(context, 0, 0)
    for n in range(1, LONGEST + 1):
        found = hashed(found, context[n - 1])
        fetch(cues.words, _place(cues, n, found))


@compiled
def trust(cues: Cues, slot: int, asker: int) -> Number:
    """0 to ``TRUSTS - 1``, for a request of number ``asker``."""
    note = cues.words[slot, table.NOTE]
    return note % KEPT_TRUSTS + KEPT_TRUSTS * (note // KEPT_TRUSTS == asker)
