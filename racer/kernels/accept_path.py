"""Following the right tokens down a tree, as machine code for CPUs: they are few, where tensor operations are many."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from racer.kernels.jit import compiled

Nodes = NDArray[np.int64]


@compiled
def walk(
    tokens: Nodes, parent: Nodes, count: Nodes, targets: Nodes, path: Nodes, length: Nodes, next_token: Nodes
) -> None:
    """Accept the children that carry their parent's target, from the root down.

    :param tokens, parent, count: ``[B, N]``, ``[B, N]`` and ``[B]`` of the trees; parents stand before their children.
    :param targets: ``[B, N]`` the right token after each node.
    :param path: ``[B, N]`` of zeros; receives the columns of the accepted nodes, the root first.
    :param length: ``[B]``; receives how many they are.
    :param next_token: ``[B]``; receives the target of the last one.
    """
    for row in range(len(count)):
        last, accepted = 0, 1
        for node in range(1, count[row]):  # once is enough: a node's children stand behind it
            if parent[row, node] == last and tokens[row, node] == targets[row, last]:
                path[row, accepted] = last = node
                accepted += 1
        length[row], next_token[row] = accepted, targets[row, last]


def make_ready() -> None:
    """Compile it, or load it from the disk."""
    one = np.zeros(1, np.int64)
    walk(one[None], one[None], one, one[None], one[None], one.copy(), one.copy())
