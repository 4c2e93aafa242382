"""How likely a candidate is, from the cells of its features: one small network, learned as decoding goes on.

Every cell has a vector; those of a candidate's cells are added up, and a hidden layer turns the sum into log-odds. A
calibration table corrects the outcome by how often candidates of that estimate were right (as context-mixing
compressors do, there called SSE or APM: Mahoney, "Adaptive Weighing of Context Models for Lossless Data Compression",
2005). The vectors and the table learn from every candidate whose parent was right, by gradient descent on coding cost;
where learning starts was fitted (:mod:`racer.strategies.context.fitted`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from racer.kernels.jit import Number, compiled
from racer.strategies.context.features import CELLS, FEATURES
from racer.strategies.context.prefetch import CACHE_LINE, prefetch

VECTOR_SIZE = 8
"""Numbers of a cell's vector. The first one is counted into the log-odds as it is."""
HIDDEN = 16
LEARNING_RATE = np.float32(0.003)
"""Of the vectors."""
CALIBRATION_DECAY = np.float32(0.999)
"""Weight of what was counted in a bin of the calibration table, whenever it is counted in again: text changes."""
MAX_PROB = 0.995
"""No candidate is estimated above it."""
CALIBRATION_BINS = 24
"""Bins of the calibration table, over log-odds of -9 to 9."""
MAX_LOG_ODDS = np.float32(9)
SIMD_WIDTH = 16
"""Candidates that are estimated at once; there is room for a multiple of it."""

Floats = NDArray[np.float32]


class Estimator(NamedTuple):
    """The weights and counts of the network: 60 KB."""

    vectors: Floats
    """``[CELLS, VECTOR_SIZE]``"""
    weights: Floats
    """``[HIDDEN, VECTOR_SIZE]`` of the hidden layer."""
    biases: Floats
    """``[HIDDEN]``"""
    output: Floats
    """``[HIDDEN + 1]`` weights of the hidden layer in the log-odds; the last one is the bias."""
    calibration_hits: Floats
    """``[CALIBRATION_BINS]`` right candidates, by their estimate; older ones count less."""
    calibration_seen: Floats
    """``[CALIBRATION_BINS]`` all candidates, likewise."""

    @classmethod
    def of(cls, **parts: NDArray[np.floating]) -> Estimator:
        """From arrays by name, which are copied.

        :raises ValueError: they have other names or shapes.
        """
        shapes = {name: part.shape for name, part in parts.items()}
        if shapes != SHAPES:
            raise ValueError(f"an estimator of shapes {shapes}, expected {SHAPES}")
        return cls(**{name: np.array(part, np.float32, order="C") for name, part in parts.items()})


SHAPES: dict[str, tuple[int, ...]] = {
    "vectors": (CELLS, VECTOR_SIZE),
    "weights": (HIDDEN, VECTOR_SIZE),
    "biases": (HIDDEN,),
    "output": (HIDDEN + 1,),
    "calibration_hits": (CALIBRATION_BINS,),
    "calibration_seen": (CALIBRATION_BINS,),
}


@compiled
def prefetch_vectors(estimator: Estimator) -> None:
    """The vectors will be read soon: a tree needs most of them, from all over the place."""
    for cell in range(0, len(estimator.vectors), 2 * CACHE_LINE // (4 * VECTOR_SIZE)):
        prefetch(estimator.vectors, cell)


@compiled
def sigmoid(log_odds: Number) -> Number:
    """Log-odds to a probability."""
    return np.float32(1) / (np.float32(1) + np.exp(-min(max(log_odds, -MAX_LOG_ODDS), MAX_LOG_ODDS)))


@compiled
def sum_vectors(estimator: Estimator, cells: NDArray[np.int16], total: Floats) -> None:
    """Put the sum of the vectors of ``cells [FEATURES]`` into ``total [VECTOR_SIZE]``."""
    total[:] = 0
    for feature in range(FEATURES):
        for i in range(VECTOR_SIZE):
            total[i] += estimator.vectors[cells[feature], i]


@compiled
def _log_odds(estimator: Estimator, total: Floats) -> Number:
    log_odds = total[0] + estimator.output[HIDDEN]
    for j in range(HIDDEN):
        hidden = estimator.biases[j]
        for i in range(VECTOR_SIZE):
            hidden += estimator.weights[j, i] * total[i]
        log_odds += estimator.output[j] * max(hidden, np.float32(0))
    return log_odds


@compiled
def _calibration_bin(log_odds: Number) -> Number:
    within = min(max(log_odds, -MAX_LOG_ODDS), MAX_LOG_ODDS)
    return min(max(int((within + MAX_LOG_ODDS) * np.float32(CALIBRATION_BINS / 18)), 0), CALIBRATION_BINS - 1)


@compiled
def estimate(estimator: Estimator, used: int, totals: Floats, probs: Floats) -> None:
    """Estimated probabilities that candidates are right if their parent is.

    :param totals: ``[VECTOR_SIZE, MAX_CANDIDATES]`` sums of the vectors of ``used`` candidates.
    :param probs: ``[MAX_CANDIDATES]`` receives them.
    """
    padded = (used + SIMD_WIDTH - 1) // SIMD_WIDTH * SIMD_WIDTH  # else the last ones would go one by one
    for at in range(padded):
        probs[at] = totals[0, at] + estimator.output[HIDDEN]
    for j in range(HIDDEN):
        bias, weights, output = estimator.biases[j], estimator.weights[j], estimator.output[j]
        for at in range(padded):
            hidden = bias
            for i in range(VECTOR_SIZE):
                hidden += weights[i] * totals[i, at]
            probs[at] += output * max(hidden, np.float32(0))
    for at in range(used):
        chosen = _calibration_bin(probs[at])
        counted = estimator.calibration_hits[chosen] / estimator.calibration_seen[chosen]
        probs[at] = min(np.float32(0.5) * (sigmoid(probs[at]) + counted), np.float32(MAX_PROB))


@compiled
def learn_outcome(estimator: Estimator, cells: NDArray[np.int16], right: bool, total: Floats) -> None:
    """Learn that a candidate was right or wrong. ``total [VECTOR_SIZE]`` is overwritten."""
    truth = np.float32(right)
    sum_vectors(estimator, cells, total)
    log_odds = _log_odds(estimator, total)
    chosen = _calibration_bin(log_odds)
    estimator.calibration_hits[chosen] = estimator.calibration_hits[chosen] * CALIBRATION_DECAY + truth
    estimator.calibration_seen[chosen] = estimator.calibration_seen[chosen] * CALIBRATION_DECAY + 1
    step = LEARNING_RATE * (truth - sigmoid(log_odds))
    _to_gradient(estimator, total)
    for feature in range(FEATURES):
        for i in range(VECTOR_SIZE):
            estimator.vectors[cells[feature], i] += step * total[i]


@compiled
def _to_gradient(estimator: Estimator, total: Floats) -> None:
    """Replace the sum of vectors by the derivative of the log-odds with respect to it."""
    active = np.uint64(0)
    for j in range(HIDDEN):
        hidden = estimator.biases[j]
        for i in range(VECTOR_SIZE):
            hidden += estimator.weights[j, i] * total[i]
        if hidden > 0:
            active |= np.uint64(1) << np.uint64(j)
    for i in range(VECTOR_SIZE):
        total[i] = np.float32(i == 0)
        for j in range(HIDDEN):
            if active & (np.uint64(1) << np.uint64(j)):
                total[i] += estimator.output[j] * estimator.weights[j, i]
