"""How likely a candidate is, from what the voices say: counted, mixed, counted again. Nothing is trained offline but
the point where counting starts.

The mixing is that of context-mixing compressors (Mahoney, "Adaptive Weighing of Context Models for Lossless Data
Compression", 2005): each voice's hit rate is stretched to log-odds, weighted by a set of weights that the situation
selects, summed, squashed, and learned by gradient descent on coding cost; a last table corrects the outcome by how
often candidates of that estimate were right (there called SSE or APM).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from racer.strategies.context.compiled import Number, compiled
from racer.strategies.context.voices import CELLS, SILENT, SITUATIONS_A, SITUATIONS_B, VOICES

MEMORY = 0.999
"""Weight of what was counted, whenever a cell is counted again: text changes."""
RATE = 0.003
"""Learning rate of the weights."""
SUREST = 0.995
"""No candidate is surer than this."""
FINE = 24
"""Bins of the last correction, over log-odds of -9 to 9."""
BOUND = np.float32(9)

Floats = NDArray[np.float32]


class Odds(NamedTuple):
    """All that is counted and learned: 20 KB."""

    hits: Floats
    """``[CELLS]`` candidates of the cell that were right, of those whose parent was right; older ones count less."""
    seen: Floats
    """``[CELLS]`` all of those, likewise."""
    stretched: Floats
    """``[CELLS + 1]`` log-odds of ``hits / seen``; 0 for the silent cell."""
    weights_a: Floats
    """``[SITUATIONS_A, VOICES + 1]`` the last one is the bias."""
    weights_b: Floats
    """``[SITUATIONS_B, VOICES + 1]``"""
    final_hits: Floats
    """``[FINE]``"""
    final_seen: Floats
    """``[FINE]``"""

    @classmethod
    def of(
        cls,
        hits: NDArray[Any],
        seen: NDArray[Any],
        weights_a: NDArray[Any],
        weights_b: NDArray[Any],
        final_hits: NDArray[Any],
        final_seen: NDArray[Any],
    ) -> Odds:
        """From counts and weights, which are copied.

        :raises ValueError: they have other shapes.
        """
        parts = [np.array(part, np.float32) for part in (hits, seen, weights_a, weights_b, final_hits, final_seen)]
        shapes = [(CELLS,), (CELLS,), (SITUATIONS_A, VOICES + 1), (SITUATIONS_B, VOICES + 1), (FINE,), (FINE,)]
        if [part.shape for part in parts] != shapes:
            raise ValueError(f"odds of shapes {[part.shape for part in parts]}, expected {shapes}")
        odds = cls(parts[0], parts[1], np.zeros(CELLS + 1, np.float32), *parts[2:])
        for cell in range(CELLS):
            odds.stretched[cell] = stretch(odds.hits[cell] / odds.seen[cell])
        return odds


@compiled
def stretch(rate: Number) -> Number:
    """Log-odds, within what a rate that was counted can support."""
    safe = min(max(rate, np.float32(1e-4)), np.float32(1 - 1e-4))
    return np.log(safe / (1 - safe))


@compiled
def squash(odds: Number) -> Number:
    """The inverse: a probability."""
    return np.float32(1) / (np.float32(1) + np.exp(-min(max(odds, -BOUND), BOUND)))


@compiled
def mixed(odds: Odds, weights: Floats, cells: NDArray[np.int16]) -> Number:
    """Log-odds by the weights ``[VOICES + 1]`` of one situation."""
    total = weights[VOICES]
    for voice in range(VOICES):
        total += weights[voice] * odds.stretched[cells[voice]]
    return total


@compiled
def _fine(mix: Number) -> Number:
    return min(max(int((mix + BOUND) * np.float32(FINE / 18)), 0), FINE - 1)


@compiled
def chance(odds: Odds, a: int, b: int, cells: NDArray[np.int16]) -> Number:
    """Estimated probability that a candidate is right if its parent is.

    :param a, b: the situations, whose two opinions count alike.
    :param cells: ``[VOICES]`` what each voice says.
    """
    mix = odds.weights_a[a, VOICES] + odds.weights_b[b, VOICES]
    for voice in range(VOICES):
        mix += (odds.weights_a[a, voice] + odds.weights_b[b, voice]) * odds.stretched[cells[voice]]
    mix *= np.float32(0.5)
    fine = _fine(mix)
    counted = odds.final_hits[fine] / odds.final_seen[fine]
    return min(np.float32(0.5) * (squash(mix) + counted), np.float32(SUREST))


@compiled
def count(odds: Odds, a: int, b: int, cells: NDArray[np.int16], right: bool) -> None:
    """Learn that a candidate was right or wrong."""
    truth = np.float32(right)
    mix_a, mix_b = mixed(odds, odds.weights_a[a], cells), mixed(odds, odds.weights_b[b], cells)
    fine = _fine(np.float32(0.5) * (mix_a + mix_b))
    odds.final_hits[fine] = odds.final_hits[fine] * np.float32(MEMORY) + truth
    odds.final_seen[fine] = odds.final_seen[fine] * np.float32(MEMORY) + 1
    step_a = np.float32(RATE) * (truth - squash(mix_a))
    step_b = np.float32(RATE) * (truth - squash(mix_b))
    odds.weights_a[a, VOICES] += step_a
    odds.weights_b[b, VOICES] += step_b
    for voice in range(VOICES):
        cell = cells[voice]
        if cell == SILENT:
            continue
        odds.weights_a[a, voice] += step_a * odds.stretched[cell]
        odds.weights_b[b, voice] += step_b * odds.stretched[cell]
        odds.hits[cell] = odds.hits[cell] * np.float32(MEMORY) + truth
        odds.seen[cell] = odds.seen[cell] * np.float32(MEMORY) + 1
        odds.stretched[cell] = stretch(odds.hits[cell] / odds.seen[cell])
