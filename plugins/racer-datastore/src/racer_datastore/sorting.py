"""The order of all suffixes of a token array, by prefix doubling (Manber and Myers 1990) in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def sort_suffixes(tokens: NDArray[Any], depth: int) -> NDArray[np.uint32]:
    """Positions ordered by the ``depth`` tokens that start there: ``[n]``, ties by position.

    The end of the array sorts before every token. Whoever looks up at most ``depth`` tokens needs no deeper order, and
    repeated texts then cost no more rounds than others: at most ``1 + ceil(log2(depth))`` stable sorts of int64 keys.
    Working memory is about 40 bytes a token.

    :param tokens: ``[n]`` unsigned integers, n below 2**31.
    """
    order, rank, distinct = _rank(tokens.astype(np.int64))
    compared = 1
    while compared < depth and distinct < len(tokens):
        ahead = min(compared, depth - compared)
        key = rank * (distinct + 1)  # below 2**62
        key[:-ahead] += rank[ahead:] + 1  # past the end: 0, before every rank
        order, rank, distinct = _rank(key)
        compared += ahead
    return order.astype(np.uint32)


def _rank(keys: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """The stable order of ``keys [n]``, each key's rank among the distinct keys from 0, and how many these are."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    steps = np.zeros(len(keys), dtype=np.int64)
    np.cumsum(ordered[1:] != ordered[:-1], out=steps[1:])
    rank = np.empty_like(steps)
    rank[order] = steps
    return order, rank, int(steps[-1]) + 1 if len(keys) else 0
