"""What the model tends to think after a context: running averages of next-token distributions."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from racer.kernels.jit import Number, compiled
from racer.strategies.context import table
from racer.strategies.context.fetch import fetch
from racer.strategies.context.hashing import NO_TOKEN, Context, hash_of, slot_of, tag_of
from racer.strategies.context.table import Ids, Probs, Reals, Words

FROM = np.array([0, 0, 0, 1])
"""A blend's key is ``context[FROM:TO]``: nothing at all, the last token, the last two, the last two but one."""
TO = np.array([0, 1, 2, 3])
BLENDS = 4
KEPT = np.array([0.99, 0.5, 0.5, 0.5], np.float32)
"""What is left of the old average when a distribution comes in. After nothing at all, it changes slowly."""


class Blends(NamedTuple):
    """Hashed tables like :class:`racer.strategies.context.cues.Cues`, a region for each kind of key."""

    words: Words
    """``[(BLENDS - 1) * slots + 1, 2 + 2 k]``; nothing is noted."""
    reals: Reals

    @classmethod
    def of(cls, slots: int, k: int) -> Blends:
        """An empty one of ``slots`` (a power of two) a kind, in ``8 + 8 k`` bytes a slot; one kind takes one slot."""
        return cls(*table.empty((BLENDS - 1) * slots + 1, k))


@compiled
def _place(blends: Blends, kind: int, found: np.uint64) -> Number:
    slots = (len(blends.words) - 1) // (BLENDS - 1)
    return len(blends.words) - 1 if kind == 0 else (kind - 1) * slots + slot_of(found, slots)


@compiled
def find(blends: Blends, context: Context, kind: int) -> Number:
    """The slot of ``context`` among the blends of a kind; -1 if there is none."""
    if kind > 0 and context[TO[kind] - 1] == NO_TOKEN:
        return -1
    found = hash_of(context, FROM[kind], TO[kind])
    return table.slot_if(blends.words, _place(blends, kind, found), tag_of(found))


@compiled
def expect(blends: Blends, context: Context) -> None:
    """The table will be asked about ``context`` soon."""
    for kind in range(1, BLENDS):
        fetch(blends.words, _place(blends, kind, hash_of(context, FROM[kind], TO[kind])))


@compiled
def stir_in(blends: Blends, context: Context, ids: Ids, probs: Probs, accepted: bool) -> None:
    """Average the best next tokens after ``context`` into its blends; rejected guesses tell nothing of the text."""
    split = table.middle(blends.words)
    for kind in range(BLENDS):
        if kind == 0 and not accepted:
            continue
        if kind > 0 and context[TO[kind] - 1] == NO_TOKEN:
            break
        found = hash_of(context, FROM[kind], TO[kind])
        slot = _place(blends, kind, found)
        kept_ids, kept_probs = blends.words[slot, table.IDS : split], blends.reals[slot, split:]
        weight = KEPT[kind]
        if blends.words[slot, table.TAG] != tag_of(found):
            blends.words[slot, table.TAG] = tag_of(found)
            kept_ids[:], kept_probs[:] = NO_TOKEN, 0
            weight = np.float32(0)
        average(kept_ids, kept_probs, weight, ids, probs)


@compiled
def average(kept_ids: Ids, kept_probs: Probs, weight: Number, ids: Ids, probs: Probs) -> None:
    """``weight`` of what was kept, the rest of ``probs``; the best of both stay, best first. At most 16 ids each."""
    size, more, used = len(kept_ids), 1 - weight, 0
    for i in range(size):
        kept_probs[i] *= weight
        used += kept_ids[i] != NO_TOKEN
    fresh, places = 0, np.uint64(0)  # which of the ids are new here, four bits for each
    for j in range(len(ids)):
        if ids[j] == NO_TOKEN:
            break
        at = _position(kept_ids, ids[j])
        if at >= 0:
            kept_probs[at] += more * probs[j]
        else:
            places |= np.uint64(j) << np.uint64(4 * fresh)
            fresh += 1
    _sort(kept_ids, kept_probs, used)
    old, new = 0, 0  # how many of each stay
    for _ in range(min(size, used + fresh)):
        takes_new = new < fresh and (old == used or more * probs[_place_of(places, new)] > kept_probs[old])
        old, new = old + (not takes_new), new + takes_new
    for i in range(old + new - 1, -1, -1):
        if new == 0:
            break
        j = _place_of(places, new - 1)
        if old > 0 and kept_probs[old - 1] < more * probs[j]:
            old -= 1
            kept_ids[i], kept_probs[i] = kept_ids[old], kept_probs[old]
        else:
            new -= 1
            kept_ids[i], kept_probs[i] = ids[j], more * probs[j]


@compiled
def _place_of(places: np.uint64, number: int) -> Number:
    return np.int64(places >> np.uint64(4 * number)) & 15


@compiled
def _position(ids: Ids, token: int) -> Number:
    """Where ``token`` stands; -1 if it does not. No early end: so the machine compares many at once."""
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
