"""What a row's own latest steps predict: its latest scored positions, and what rejected nodes predicted further on."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from racer.kernels.jit import compiled
from racer.strategies.context.hash_table import Ids, Probs
from racer.strategies.context.hashing import NO_TOKEN
from racer.strategies.context.running_means import average
from racer.strategies.context.top_k_table import REQUEST_NUMBERS

POSITIONS = 4
"""Latest scored positions of the text that are kept."""
ALIGNED_DEPTHS = 4
"""Depths below the new root for which the last step's rejected nodes are averaged."""
ALIGNED_IDS = 8
"""Tokens kept for each of these depths."""
REJECTED_IDS = 4
"""Tokens taken from each rejected node."""


class Recent(NamedTuple):
    """A few hundred bytes a row."""

    ids: Ids
    """``[POSITIONS, k]`` best next tokens of the latest accepted positions, the newest first."""
    probs: Probs
    """``[POSITIONS, k]``"""
    known: NDArray[np.int64]
    """``[1]`` how many positions there are."""
    aligned_ids: Ids
    """``[ALIGNED_DEPTHS, ALIGNED_IDS]`` what the last step's rejected nodes predicted below a node of this depth,
    wherever they hung: a draft that got one word wrong may be right about the words behind it."""
    aligned_probs: Probs
    """``[ALIGNED_DEPTHS, ALIGNED_IDS]`` weighted by the nodes' scores."""
    request: NDArray[np.int32]
    """``[1]`` the request's number."""

    @classmethod
    def of(cls, k: int, request: int = 0) -> Recent:
        """Nothing yet, for the request of number ``request``."""
        return cls(
            np.full((POSITIONS, k), NO_TOKEN, np.int32),
            np.zeros((POSITIONS, k), np.float32),
            np.zeros(1, np.int64),
            np.full((ALIGNED_DEPTHS, ALIGNED_IDS), NO_TOKEN, np.int32),
            np.zeros((ALIGNED_DEPTHS, ALIGNED_IDS), np.float32),
            np.full(1, request % REQUEST_NUMBERS, np.int32),
        )


@compiled
def add_position(recent: Recent, ids: Ids, probs: Probs) -> None:
    """Put the newest accepted position's best next tokens in front."""
    for i in range(POSITIONS - 1, 0, -1):
        for j in range(recent.ids.shape[1]):
            recent.ids[i, j] = recent.ids[i - 1, j]
            recent.probs[i, j] = recent.probs[i - 1, j]
    for j in range(recent.ids.shape[1]):
        recent.ids[0, j] = ids[j] if j < len(ids) else NO_TOKEN
        recent.probs[0, j] = probs[j] if j < len(ids) else 0
    recent.known[0] = min(recent.known[0] + 1, POSITIONS)


@compiled
def align_rejected(recent: Recent, depth: NDArray[np.int32], score: Probs, length: int, ids: Ids, probs: Probs) -> None:
    """Average what the nodes at depth ``length`` and deeper predict, by the depth that they have below the new root.

    :param depth: ``[N]`` of the scored tree.
    :param score: ``[N]`` its nodes' scores.
    :param length: accepted nodes, the root included: the depth of the new root.
    """
    for below in range(ALIGNED_DEPTHS):
        recent.aligned_ids[below], recent.aligned_probs[below] = NO_TOKEN, 0
        weight = np.float32(0)
        for node in range(len(depth)):
            if depth[node] == length + below and score[node] > 0 and ids[node, 0] != NO_TOKEN:
                total = weight + score[node]
                average(
                    recent.aligned_ids[below],
                    recent.aligned_probs[below],
                    weight / total,
                    ids[node, :REJECTED_IDS],
                    probs[node, :REJECTED_IDS],
                )
                weight = total
