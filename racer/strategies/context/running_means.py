"""Running means of the model's next-token distributions after a context."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from racer.kernels.jit import Number, compiled
from racer.strategies.context import hash_table
from racer.strategies.context.hash_table import Ids, Probs, Reals, Words
from racer.strategies.context.hashing import NO_TOKEN, Context, key_of, slot_of, tag_of
from racer.strategies.context.prefetch import prefetch

FROM = np.array([0, 0, 1])
"""A mean's key is ``context[FROM:TO]``: the last token, the last two, the last two but one."""
TO = np.array([1, 2, 3])
MEANS = 3
"""Kinds of keys, and so means that a context has."""
DECAY = np.float32(0.5)
"""Weight of the old mean when a distribution comes in."""


class RunningMeans(NamedTuple):
    """Hash tables like :class:`racer.strategies.context.top_k_table.TopKTable`, a region for each kind of key."""

    words: Words
    """``[MEANS * slots, 2 + 2 k]``"""
    reals: Reals

    @classmethod
    def of(cls, slots: int, k: int) -> RunningMeans:
        """An empty one of ``slots`` (a power of two) a kind, in ``8 + 8 k`` bytes a slot."""
        return cls(*hash_table.empty(MEANS * slots, k))


@compiled
def _slot(means: RunningMeans, kind: int, key: np.uint64) -> Number:
    slots = len(means.words) // MEANS
    return kind * slots + slot_of(key, slots)


@compiled
def find(means: RunningMeans, context: Context, kind: int) -> Number:
    """The slot of the mean of a kind after ``context``; -1 if there is none."""
    if context[TO[kind] - 1] == NO_TOKEN:
        return -1
    key = key_of(context, FROM[kind], TO[kind])
    return hash_table.slot_if_tagged(means.words, _slot(means, kind, key), tag_of(key))


@compiled
def prefetch_context(means: RunningMeans, context: Context) -> None:
    """The table will be asked about ``context`` soon."""
    for kind in range(MEANS):
        prefetch(means.words, _slot(means, kind, key_of(context, FROM[kind], TO[kind])))


@compiled
def update(means: RunningMeans, context: Context, ids: Ids, probs: Probs) -> None:
    """Take the best next tokens after ``context`` into its means."""
    split = hash_table.probs_column(means.words)
    for kind in range(MEANS):
        if context[TO[kind] - 1] == NO_TOKEN:
            break
        key = key_of(context, FROM[kind], TO[kind])
        slot = _slot(means, kind, key)
        kept_ids, kept_probs = means.words[slot, hash_table.IDS : split], means.reals[slot, split:]
        weight = DECAY
        if means.words[slot, hash_table.TAG] != tag_of(key):
            means.words[slot, hash_table.TAG] = tag_of(key)
            kept_ids[:], kept_probs[:] = NO_TOKEN, 0
            weight = np.float32(0)
        average(kept_ids, kept_probs, weight, ids, probs)


@compiled
def average(kept_ids: Ids, kept_probs: Probs, weight: Number, ids: Ids, probs: Probs) -> None:
    """``weight`` of what was kept, the rest of ``probs``; the best of both stay, best first. At most 16 ids each."""
    size, new_weight, used = len(kept_ids), 1 - weight, 0
    for i in range(size):
        kept_probs[i] *= weight
        used += kept_ids[i] != NO_TOKEN
    fresh, places = 0, np.uint64(0)  # which of the ids are new here, four bits for each
    for j in range(len(ids)):
        if ids[j] == NO_TOKEN:
            break
        at = _position(kept_ids, ids[j])
        if at >= 0:
            kept_probs[at] += new_weight * probs[j]
        else:
            places |= np.uint64(j) << np.uint64(4 * fresh)
            fresh += 1
    _sort(kept_ids, kept_probs, used)
    old, new = 0, 0  # how many of each stay
    for _ in range(min(size, used + fresh)):
        takes_new = new < fresh and (old == used or new_weight * probs[_place_of(places, new)] > kept_probs[old])
        old, new = old + (not takes_new), new + takes_new
    for i in range(old + new - 1, -1, -1):
        if new == 0:
            break
        j = _place_of(places, new - 1)
        if old > 0 and kept_probs[old - 1] < new_weight * probs[j]:
            old -= 1
            kept_ids[i], kept_probs[i] = kept_ids[old], kept_probs[old]
        else:
            new -= 1
            kept_ids[i], kept_probs[i] = ids[j], new_weight * probs[j]


@compiled
def _place_of(places: np.uint64, number: int) -> Number:
    return np.int64(places >> np.uint64(4 * number)) & 15


@compiled
def _position(ids: Ids, token: int) -> Number:
    """Where ``token`` stands; -1 if it does not. No early end, so that many are compared at once (SIMD)."""
    at = -1
    for i in range(len(ids)):
        at = i if ids[i] == token else at
    return at


@compiled
def _sort(ids: Ids, probs: Probs, size: int) -> None:
    """Best first, by insertion: little is out of place."""
    for j in range(1, size):
        token, prob, i = ids[j], probs[j], j
        while i > 0 and probs[i - 1] < prob:
            ids[i], probs[i] = ids[i - 1], probs[i - 1]
            i -= 1
        ids[i], probs[i] = token, prob
