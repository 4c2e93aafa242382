"""How likely a candidate is, from what the voices say: one small network, learned as decoding goes on.

Every cell has a vector; those of a candidate's cells are added up, and a hidden layer turns the sum into log-odds. A
last table corrects the outcome by how often candidates of that estimate were right (as context-mixing compressors do,
there called SSE or APM: Mahoney, "Adaptive Weighing of Context Models for Lossless Data Compression", 2005). The
vectors and the table learn from every candidate whose parent was right, by gradient descent on coding cost; where
learning starts was fitted (:mod:`racer.strategies.context.start`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from racer.kernels.jit import Number, compiled
from racer.strategies.context.fetch import LINE, fetch
from racer.strategies.context.voices import CELLS, VOICES

SIZE = 8
"""Numbers of a cell's vector. The first one is counted into the log-odds as it is."""
HIDDEN = 16
RATE = np.float32(0.003)
"""Learning rate of the vectors."""
MEMORY = np.float32(0.999)
"""Weight of what was counted in a bin of the last table, whenever it is counted in again: text changes."""
SUREST = 0.995
"""No candidate is surer than this."""
FINE = 24
"""Bins of the last correction, over log-odds of -9 to 9."""
BOUND = np.float32(9)
LANES = 16
"""Candidates that are weighed at once; there is room for a multiple of it."""

Floats = NDArray[np.float32]


class Odds(NamedTuple):
    """All that is learned of how far voices can be trusted: 60 KB."""

    vectors: Floats
    """``[CELLS, SIZE]``"""
    weights: Floats
    """``[HIDDEN, SIZE]`` of the hidden layer."""
    biases: Floats
    """``[HIDDEN]``"""
    outward: Floats
    """``[HIDDEN + 1]`` weights of the hidden numbers in the log-odds; the last one is added."""
    final_hits: Floats
    """``[FINE]`` right candidates, by their estimate; older ones count less."""
    final_seen: Floats
    """``[FINE]`` all candidates, likewise."""

    @classmethod
    def of(cls, **parts: NDArray[np.floating]) -> Odds:
        """From arrays by name, which are copied.

        :raises ValueError: they have other names or shapes.
        """
        shapes = {name: part.shape for name, part in parts.items()}
        if shapes != SHAPES:
            raise ValueError(f"odds of shapes {shapes}, expected {SHAPES}")
        return cls(**{name: np.array(part, np.float32, order="C") for name, part in parts.items()})


SHAPES: dict[str, tuple[int, ...]] = {
    "vectors": (CELLS, SIZE),
    "weights": (HIDDEN, SIZE),
    "biases": (HIDDEN,),
    "outward": (HIDDEN + 1,),
    "final_hits": (FINE,),
    "final_seen": (FINE,),
}


@compiled
def expect(odds: Odds) -> None:
    """The vectors will be asked for soon: a tree needs most of them, from all over the place."""
    for cell in range(0, len(odds.vectors), 2 * LINE // (4 * SIZE)):
        fetch(odds.vectors, cell)


@compiled
def squash(odds: Number) -> Number:
    """Log-odds to a probability."""
    return np.float32(1) / (np.float32(1) + np.exp(-min(max(odds, -BOUND), BOUND)))


@compiled
def add_up(odds: Odds, cells: NDArray[np.int16], total: Floats) -> None:
    """Put the sum of the vectors of ``cells [VOICES]`` into ``total [SIZE]``."""
    total[:] = 0
    for voice in range(VOICES):
        for i in range(SIZE):
            total[i] += odds.vectors[cells[voice], i]


@compiled
def _log_odds(odds: Odds, total: Floats) -> Number:
    found = total[0] + odds.outward[HIDDEN]
    for j in range(HIDDEN):
        hidden = odds.biases[j]
        for i in range(SIZE):
            hidden += odds.weights[j, i] * total[i]
        found += odds.outward[j] * max(hidden, np.float32(0))
    return found


@compiled
def _fine(found: Number) -> Number:
    within = min(max(found, -BOUND), BOUND)
    return min(max(int((within + BOUND) * np.float32(FINE / 18)), 0), FINE - 1)


@compiled
def chances(odds: Odds, used: int, totals: Floats, found: Floats) -> None:
    """Estimated probabilities that candidates are right if their parent is.

    :param totals: ``[SIZE, MOST]`` sums of the vectors of ``used`` candidates.
    :param found: ``[MOST]`` receives them.
    """
    lanes = (used + LANES - 1) // LANES * LANES  # the machine takes so many at once, or else one by one
    for at in range(lanes):
        found[at] = totals[0, at] + odds.outward[HIDDEN]
    for j in range(HIDDEN):
        bias, weights, outward = odds.biases[j], odds.weights[j], odds.outward[j]
        for at in range(lanes):
            hidden = bias
            for i in range(SIZE):
                hidden += weights[i] * totals[i, at]
            found[at] += outward * max(hidden, np.float32(0))
    for at in range(used):
        fine = _fine(found[at])
        counted = odds.final_hits[fine] / odds.final_seen[fine]
        found[at] = min(np.float32(0.5) * (squash(found[at]) + counted), np.float32(SUREST))


@compiled
def count(odds: Odds, cells: NDArray[np.int16], right: bool, total: Floats) -> None:
    """Learn that a candidate was right or wrong. ``total [SIZE]`` is overwritten."""
    truth = np.float32(right)
    add_up(odds, cells, total)
    found = _log_odds(odds, total)
    fine = _fine(found)
    odds.final_hits[fine] = odds.final_hits[fine] * MEMORY + truth
    odds.final_seen[fine] = odds.final_seen[fine] * MEMORY + 1
    step = RATE * (truth - squash(found))
    _to_gradient(odds, total)
    for voice in range(VOICES):
        for i in range(SIZE):
            odds.vectors[cells[voice], i] += step * total[i]


@compiled
def _to_gradient(odds: Odds, total: Floats) -> None:
    """Replace the sum of vectors by the derivative of the log-odds with respect to it."""
    active = np.uint64(0)
    for j in range(HIDDEN):
        hidden = odds.biases[j]
        for i in range(SIZE):
            hidden += odds.weights[j, i] * total[i]
        if hidden > 0:
            active |= np.uint64(1) << np.uint64(j)
    for i in range(SIZE):
        total[i] = np.float32(i == 0)
        for j in range(HIDDEN):
            if active & (np.uint64(1) << np.uint64(j)):
                total[i] += odds.outward[j] * odds.weights[j, i]
