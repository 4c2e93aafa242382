"""Where counting starts: hit rates and weights before the first token was ever guessed."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from racer.strategies.context.hints import DEPTHS
from racer.strategies.context.odds import BOUND, FINE, Odds
from racer.strategies.context.voices import (
    ALIGNED,
    CELLS,
    FIRST,
    LATEST,
    LENGTH_BINS,
    LENGTH_SETS,
    MATCH,
    NEAR,
    PROB_BINS,
    REACH,
    SITUATIONS_A,
    SITUATIONS_B,
    VOICES,
    VOTES,
)

FITTED = Path(__file__).with_name("start.npz")
"""What counting came to on the package's own questions and the embedded model (``benchmarks/fit_start.py``)."""
FITTED_WEIGHT = 200.0
"""Candidates that a fitted cell stands for at most, so that another model's text is soon counted for itself."""
PLAIN_WEIGHT = 10.0
"""Candidates that a cell of the plain start stands for."""

Array = NDArray[np.float32]


def fitted_odds() -> Odds:
    """The start that ``racer`` uses: what counting came to elsewhere, each cell worth at most 200 candidates."""
    return Odds.of(**_fitted())


@cache
def _fitted() -> dict[str, Array]:
    with np.load(FITTED) as parts:
        return dict(parts)


def keep_as_start(odds: Odds, path: Path = FITTED) -> None:
    """Write what was counted so far as a start for others."""
    seen, final_seen = (np.minimum(part, np.float32(FITTED_WEIGHT)) for part in (odds.seen, odds.final_seen))
    np.savez(
        path,
        hits=odds.hits / odds.seen * seen,
        seen=seen,
        final_hits=odds.final_hits / odds.final_seen * final_seen,
        final_seen=final_seen,
        weights_a=odds.weights_a,
        weights_b=odds.weights_b,
    )


def plain_odds() -> Odds:
    """A start that nothing was fitted to: a voice is half believed, the longest context and match most of all."""
    middle = np.array([0.001, 0.006, 0.018, 0.045, 0.09, 0.17, 0.29, 0.43, 0.57, 0.72, 0.87, 0.97])
    named = np.append(middle, 0.004)  # and what the voice does not name
    rates = np.full(CELLS, 0.3)
    for voice, belief in zip(range(LATEST, MATCH), (0.55, 0.75, 0.85, 0.9, 0.5, 0.7, 0.8, 0.5), strict=True):
        cells = rates[FIRST[voice] : FIRST[voice + 1]]
        cells[:] = belief * np.resize(named, len(cells))
    best = np.array([0.002, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.92])  # by the longest match
    matches = rates[FIRST[MATCH] : FIRST[VOTES]].reshape(LENGTH_BINS, LENGTH_BINS + 1)
    matches[:, 0], matches[:, 1:-1], matches[:, -1] = 0.01, 0.3 * best[:, None], best
    for voice in (NEAR, NEAR + 1):
        rates[FIRST[voice]] = 0.02
        later = 0.8 ** np.arange(REACH)[:, None] * (0.01 + 0.1 * middle)
        rates[FIRST[voice] + 1 : FIRST[voice] + 1 + REACH * PROB_BINS] = later.ravel()
    rates[FIRST[ALIGNED] :] = (np.linspace(0.5, 0.25, DEPTHS)[:, None] * named).ravel()
    weights = _plain_weights()
    final = 1 / (1 + np.exp(-((np.arange(FINE) + 0.5) * 2 * float(BOUND) / FINE - float(BOUND))))
    return Odds.of(
        hits=rates * PLAIN_WEIGHT,
        seen=np.full(CELLS, PLAIN_WEIGHT),
        weights_a=weights,
        weights_b=np.tile(weights.mean(0), (SITUATIONS_B, 1)),
        final_hits=final * PLAIN_WEIGHT,
        final_seen=np.full(FINE, PLAIN_WEIGHT),
    )


def _plain_weights() -> NDArray[np.float64]:
    """``[SITUATIONS_A, VOICES + 1]`` mostly the longest cue and the match; without cues, what was likely lately."""
    weights = np.zeros((SITUATIONS_A, VOICES + 1))
    for situation in range(SITUATIONS_A):
        cue, match = divmod(situation, LENGTH_SETS)
        weights[situation, [MATCH, NEAR]] = (0, 0.4, 0.8)[match], 0.15
        if cue > 0:
            weights[situation, [LATEST + cue - 1, VOICES]] = 0.9, 0.7
            weights[situation, LATEST + cue - 2] += 0.15 * (cue > 1)
        elif match:
            weights[situation, MATCH] = 1
        else:
            weights[situation, NEAR] = 1
    return weights
