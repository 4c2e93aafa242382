"""Sizes that static shapes are rounded up to: few enough to capture a graph for each, close enough to waste little."""

from __future__ import annotations

NODES = (1, 4, 8, 16, 24, 32, 48, 64)
"""Widths of small trees; larger ones have multiples of the half of the last."""

SLOTS = 256
"""The smallest attention length, and the smallest step between two."""


def nodes_bucket(nodes: int) -> int:
    """Columns that a tree of ``nodes`` columns is padded to."""
    if nodes <= NODES[-1]:
        return next(size for size in NODES if size >= nodes)
    return _round_up(nodes, NODES[-1] // 2)


def slots_bucket(slots: int) -> int:
    """Attention length for ``slots`` cache slots: multiples of 256 up to 2048, then four to every doubling."""
    half = 1 << max((slots - 1).bit_length() - 1, 0)
    return _round_up(slots, max(SLOTS, half // 4))


def _round_up(count: int, step: int) -> int:
    return -(-count // step) * step
