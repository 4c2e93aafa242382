"""What the model tends to think after a context: running averages of next-token distributions."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from racer.strategies.context.compiled import Number, compiled
from racer.strategies.context.cues import Ids, Probs
from racer.strategies.context.hashing import NO_TOKEN, Context, hash_of, slot_of, tag_of

FROM = np.array([0, 0, 0, 1])
"""A blend's key is ``context[FROM:TO]``: nothing at all, the last token, the last two, the last two but one."""
TO = np.array([0, 1, 2, 3])
BLENDS = 4
KEPT = np.array([0.99, 0.5, 0.5, 0.5], np.float32)
"""What is left of the old average when a distribution comes in. After nothing at all, it changes slowly."""


class Blends(NamedTuple):
    """Hashed tables like :class:`racer.strategies.context.cues.Cues`, a region for each kind of key."""

    tags: NDArray[np.uint32]
    """``[BLENDS * slots]``, 0 where a slot is empty."""
    ids: Ids
    """``[BLENDS * slots, k]`` best first; -1 where there are fewer."""
    probs: Probs
    """``[BLENDS * slots, k]``"""

    @classmethod
    def of(cls, slots: int, k: int) -> Blends:
        """An empty one of ``slots`` (a power of two) a kind, in ``4 + 8 k`` bytes a slot; one kind takes one slot."""
        rows = (BLENDS - 1) * slots + 1
        return cls(np.zeros(rows, np.uint32), np.full((rows, k), NO_TOKEN, np.int32), np.zeros((rows, k), np.float32))


@compiled
def _place(blends: Blends, kind: int, found: np.uint64) -> Number:
    slots = (len(blends.tags) - 1) // (BLENDS - 1)
    return len(blends.tags) - 1 if kind == 0 else (kind - 1) * slots + slot_of(found, slots)


@compiled
def find(blends: Blends, context: Context, kind: int) -> Number:
    """The slot of ``context`` among the blends of a kind; -1 if there is none."""
    if kind > 0 and context[TO[kind] - 1] == NO_TOKEN:
        return -1
    found = hash_of(context, FROM[kind], TO[kind])
    slot = _place(blends, kind, found)
    return slot if blends.tags[slot] == tag_of(found) else -1


@compiled
def stir_in(blends: Blends, context: Context, ids: Ids, probs: Probs, accepted: bool) -> None:
    """Average the best next tokens after ``context`` into its blends; rejected guesses tell nothing of the text."""
    for kind in range(BLENDS):
        if kind == 0 and not accepted:
            continue
        if kind > 0 and context[TO[kind] - 1] == NO_TOKEN:
            break
        found = hash_of(context, FROM[kind], TO[kind])
        slot = _place(blends, kind, found)
        if blends.tags[slot] != tag_of(found):
            blends.tags[slot] = tag_of(found)
            blends.ids[slot], blends.probs[slot] = NO_TOKEN, 0
            average(blends.ids[slot], blends.probs[slot], np.float32(0), ids, probs)
        else:
            average(blends.ids[slot], blends.probs[slot], KEPT[kind], ids, probs)


@compiled
def average(kept_ids: Ids, kept_probs: Probs, weight: Number, ids: Ids, probs: Probs) -> None:
    """``weight`` of what was kept, the rest of ``probs``; the best of both stay, best first."""
    size, more = len(kept_ids), 1 - weight
    for i in range(size):
        kept_probs[i] *= weight
    used = 0
    while used < size and kept_ids[used] != NO_TOKEN:
        used += 1
    for j in range(len(ids)):
        at = _position(kept_ids, ids[j])
        if ids[j] != NO_TOKEN and at >= 0:
            kept_probs[at] += more * probs[j]
    for j in range(len(ids)):
        if ids[j] == NO_TOKEN:
            break
        if _position(kept_ids, ids[j]) >= 0:
            continue
        if used < size:
            at = used
            used += 1
        else:
            at = np.argmin(kept_probs)
            if kept_probs[at] >= more * probs[j]:
                break  # so are the others, which come best first
        kept_ids[at], kept_probs[at] = ids[j], more * probs[j]
    _sort(kept_ids, kept_probs, used)


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
