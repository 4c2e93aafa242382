"""Moving the accepted rows of a whole batch in one go, as machine code for CPUs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from racer.kernels.jit import compiled


def make_ready() -> None:
    """Compile for the storage of a whole batch, and for that of the rows that are left of one."""
    store, one = np.zeros((2, 2, 1, 1, 1), np.uint8), np.zeros(1, np.int64)
    for rows in (store, store[:, :1]):
        move(rows, 0, one[None], one, one)


@compiled
def move(
    store: NDArray[np.uint8],
    end: int,
    path: NDArray[np.int64],
    lengths: NDArray[np.int64],
    counts: NDArray[np.int64],
) -> bool:
    """Move the slots ``end + path[b, :counts[b]]`` of each row ``b`` to ``lengths[b]`` and the following ones.

    :param store: ``[layers, B, heads, capacity, bytes]``
    :param path: ``[B, any]``, rising along each row, so that no slot is overwritten before it has moved.
    :param lengths: ``[B]``, at most ``end``.
    :return: whether all slots are there, and rise; else nothing is moved.
    """
    sound = len(path) >= len(counts)
    for row in range(len(counts) if sound else 0):
        sound = sound and counts[row] <= path.shape[1]
        for i in range(min(counts[row], path.shape[1])):
            sound = sound and i <= path[row, i] < store.shape[3] - end and (i == 0 or path[row, i - 1] < path[row, i])
    if not sound:
        return False
    for layer in range(store.shape[0]):
        for row in range(len(counts)):
            for head in range(store.shape[2]):
                slots = store[layer, row, head]
                for i in range(counts[row]):
                    source, target = end + path[row, i], lengths[row] + i
                    if source != target:
                        for byte in range(slots.shape[1]):
                            slots[target, byte] = slots[source, byte]
    return True
