"""The model's top k after a context when it was last scored: the best next tokens and their probabilities."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from racer.kernels.jit import Number, compiled
from racer.strategies.context import hash_table
from racer.strategies.context.hash_table import Ids, Probs, Reals, Words
from racer.strategies.context.hashing import NO_TOKEN, Context, extend_key, key_of, slot_of, tag_of
from racer.strategies.context.prefetch import prefetch

MAX_CONTEXT = 4
"""Tokens of the longest context that has entries of its own."""
STORED_CONFIDENCES = 8
"""Levels of confidence that an entry stores: how often its first token came up again in a row (0 to 3), and 4 more if
the scored position was accepted, not rejected."""
CONFIDENCES = 2 * STORED_CONFIDENCES
"""The same, and as many more if the entry was stored by the request that reads it."""
REQUEST_NUMBERS = 2**16
"""Requests that an entry tells apart; their numbers wrap."""


class TopKTable(NamedTuple):
    """A hash table of fixed size, a region for each context length, so that long contexts, of which there are many,
    cannot push out short ones. A newer context takes the slot of an older one; a tag tells them apart."""

    words: Words
    """``[MAX_CONTEXT * slots, 2 + 2 k]``; noted is ``STORED_CONFIDENCES`` times the number of the request that stored
    it, plus the stored level of confidence."""
    reals: Reals
    requests: NDArray[np.int64]
    """``[1]`` requests so far."""

    @classmethod
    def of(cls, slots: int, k: int) -> TopKTable:
        """An empty one of ``slots`` (a power of two) a context length, in ``8 + 8 k`` bytes a slot."""
        return cls(*hash_table.empty(MAX_CONTEXT * slots, k), np.zeros(1, np.int64))


@compiled
def _slot(table: TopKTable, n: int, key: np.uint64) -> Number:
    """Where the key of the last ``n`` tokens lives."""
    slots = len(table.words) // MAX_CONTEXT
    return (n - 1) * slots + slot_of(key, slots)


@compiled
def store(table: TopKTable, context: Context, ids: Ids, probs: Probs, accepted: bool, request: int) -> None:
    """Keep the best next tokens after the last 1, 2, ... tokens of ``context``.

    :param accepted: whether the scored position is part of the text.
    :param request: the number of the request that it belongs to.
    """
    split, key = hash_table.probs_column(table.words), key_of(context, 0, 0)
    for n in range(1, MAX_CONTEXT + 1):
        if context[n - 1] == NO_TOKEN:
            break
        key = extend_key(key, context[n - 1])
        slot = _slot(table, n, key)
        words = table.words[slot]
        kept_ids, kept_probs = words[hash_table.IDS : split], table.reals[slot, split:]
        again = words[hash_table.TAG] == tag_of(key) and kept_ids[0] == ids[0]
        agreed: Number = min((words[hash_table.NOTE] & 3) + 1, 3) if again else 0
        words[hash_table.TAG] = tag_of(key)
        words[hash_table.NOTE] = STORED_CONFIDENCES * request + agreed + 4 * accepted
        for j in range(len(kept_ids)):
            kept_ids[j] = ids[j] if j < len(ids) else NO_TOKEN
            kept_probs[j] = probs[j] if j < len(ids) else 0


@compiled
def find(table: TopKTable, context: Context, slots: NDArray[np.int64]) -> None:
    """Put the slots of the last 1, 2, ... tokens of ``context`` into ``slots [MAX_CONTEXT]``; -1: never scored."""
    key = key_of(context, 0, 0)
    for n in range(1, MAX_CONTEXT + 1):
        key = extend_key(key, context[n - 1])
        known = context[n - 1] != NO_TOKEN
        slots[n - 1] = hash_table.slot_if_tagged(table.words, _slot(table, n, key), tag_of(key)) if known else -1


@compiled
def prefetch_context(table: TopKTable, context: Context) -> None:
    """The table will be asked about ``context`` soon."""
    key = key_of(context, 0, 0)
    for n in range(1, MAX_CONTEXT + 1):
        key = extend_key(key, context[n - 1])
        prefetch(table.words, _slot(table, n, key))


@compiled
def confidence(table: TopKTable, slot: int, request: int) -> Number:
    """The level of confidence in an entry, 0 to ``CONFIDENCES - 1``, for a request of number ``request``."""
    note = table.words[slot, hash_table.NOTE]
    return note % STORED_CONFIDENCES + STORED_CONFIDENCES * (note // STORED_CONFIDENCES == request)
