"""What a row's own latest steps say: predictions near the root, and what rejected guesses expected further on."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from racer.kernels.jit import compiled
from racer.strategies.context.blends import average
from racer.strategies.context.cues import ASKERS
from racer.strategies.context.hashing import NO_TOKEN
from racer.strategies.context.table import Ids, Probs

RECENT = 4
"""Latest scored positions of the text that are kept."""
DEPTHS = 4
"""Depths below the new root for which rejected guesses of the last step may have had a say."""
EXPECTED = 8
"""Tokens kept for each of these depths."""
HEARD = 4
"""Tokens taken from each rejected guess."""
MOST_SUCCESS = 8
SUCCESS_KEPT = np.float32(0.6)
"""What is left of the old average when a step comes in."""


class Hints(NamedTuple):
    """A few hundred bytes a row."""

    recent_ids: Ids
    """``[RECENT, k]`` best next tokens of the latest accepted positions, the newest first."""
    recent_probs: Probs
    """``[RECENT, k]``"""
    recents: NDArray[np.int64]
    """``[1]`` how many there are."""
    aligned_ids: Ids
    """``[DEPTHS, EXPECTED]`` what the last step's rejected nodes expected below a node of this depth, wherever they
    hung: a draft that got one word wrong may be right about the words behind it."""
    aligned_probs: Probs
    """``[DEPTHS, EXPECTED]`` weighted by the nodes' scores."""
    asker: NDArray[np.int32]
    """``[1]`` the request's number."""
    success: NDArray[np.float32]
    """``[1]`` running average of the drafted tokens that a step keeps, at most :data:`MOST_SUCCESS` of one step."""

    @classmethod
    def of(cls, k: int, asker: int = 0) -> Hints:
        """None yet, for the request of number ``asker``."""
        return cls(
            np.full((RECENT, k), NO_TOKEN, np.int32),
            np.zeros((RECENT, k), np.float32),
            np.zeros(1, np.int64),
            np.full((DEPTHS, EXPECTED), NO_TOKEN, np.int32),
            np.zeros((DEPTHS, EXPECTED), np.float32),
            np.full(1, asker % ASKERS, np.int32),
            np.full(1, 2, np.float32),
        )


@compiled
def note_recent(hints: Hints, ids: Ids, probs: Probs) -> None:
    """Put the newest accepted position's best next tokens in front."""
    for i in range(RECENT - 1, 0, -1):
        for j in range(hints.recent_ids.shape[1]):
            hints.recent_ids[i, j] = hints.recent_ids[i - 1, j]
            hints.recent_probs[i, j] = hints.recent_probs[i - 1, j]
    for j in range(hints.recent_ids.shape[1]):
        hints.recent_ids[0, j] = ids[j] if j < len(ids) else NO_TOKEN
        hints.recent_probs[0, j] = probs[j] if j < len(ids) else 0
    hints.recents[0] = min(hints.recents[0] + 1, RECENT)


@compiled
def note_success(hints: Hints, kept: int) -> None:
    """Take in how many drafted tokens a step kept."""
    hints.success[0] += (1 - SUCCESS_KEPT) * (min(kept, MOST_SUCCESS) - hints.success[0])


@compiled
def note_rejected(hints: Hints, depth: NDArray[np.int32], score: Probs, length: int, ids: Ids, probs: Probs) -> None:
    """Average what the nodes at depth ``length`` and deeper expected, by the depth that they have below the new root.

    :param depth: ``[N]`` of the scored tree.
    :param score: ``[N]`` its nodes' scores.
    :param length: accepted nodes, the root included: the depth of the new root.
    """
    for below in range(DEPTHS):
        hints.aligned_ids[below], hints.aligned_probs[below] = NO_TOKEN, 0
        weight = np.float32(0)
        for node in range(len(depth)):
            if depth[node] == length + below and score[node] > 0 and ids[node, 0] != NO_TOKEN:
                total = weight + score[node]
                average(
                    hints.aligned_ids[below],
                    hints.aligned_probs[below],
                    weight / total,
                    ids[node, :HEARD],
                    probs[node, :HEARD],
                )
                weight = total
