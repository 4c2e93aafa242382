"""The network that weighs the features, against the same in numpy, and its learning against finite differences."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from racer.strategies.context import estimator as estimating
from racer.strategies.context.candidates import MAX_CANDIDATES, Candidates, add, clear, set_cell
from racer.strategies.context.estimator import (
    CALIBRATION_BINS,
    HIDDEN,
    LEARNING_RATE,
    MAX_LOG_ODDS,
    MAX_PROB,
    VECTOR_SIZE,
    Estimator,
)
from racer.strategies.context.extraction import _set_last_seen_cells
from racer.strategies.context.features import FEATURES, FIRST_CELL, LAST_SEEN, last_seen_cell, set_circumstances
from racer.strategies.context.fitted import fitted_estimator
from racer.strategies.context.hashing import context_of


def log_odds(estimator: Estimator, vectors: np.ndarray, cells: np.ndarray) -> float:
    total = vectors[cells].sum(0)
    hidden = np.maximum(estimator.weights.astype(float) @ total + estimator.biases, 0)
    return float(total[0] + estimator.output[:HIDDEN] @ hidden + estimator.output[HIDDEN])


def some_cells(seed: int) -> np.ndarray:
    """A cell of each feature."""
    return np.random.default_rng(seed).integers(FIRST_CELL[:-1], FIRST_CELL[1:]).astype(np.int16)


@given(seed=st.integers(0, 2**32), other=st.integers(0, 2**32))
def test_an_estimate_is_that_of_the_network_and_of_the_last_table(seed: int, other: int) -> None:
    estimator, cells, candidates = fitted_estimator(), some_cells(seed), Candidates.empty()
    clear(candidates)
    candidates.unlisted[:] = some_cells(other)
    estimating.sum_vectors(estimator, candidates.unlisted, candidates.base)
    add(candidates, 7, 1.0)
    add(candidates, 8, 1.0)
    for feature in range(FEATURES):
        set_cell(candidates, estimator, 1, feature, cells[feature])
        set_cell(candidates, estimator, 1, feature, candidates.unlisted[feature])  # the first time counts
    total, estimates = np.empty(VECTOR_SIZE, np.float32), np.empty(MAX_CANDIDATES, np.float32)
    estimating.sum_vectors(estimator, cells, total)
    assert candidates.totals[:, 1] == pytest.approx(total, abs=1e-4)
    assert candidates.totals[:, 0] == pytest.approx(candidates.base)
    estimating.estimate(estimator, 2, candidates.totals, estimates)
    found = log_odds(estimator, estimator.vectors.astype(float), cells)
    bins = {
        min(max(int((found + shift + MAX_LOG_ODDS) * CALIBRATION_BINS / 18), 0), CALIBRATION_BINS - 1)
        for shift in (-1e-3, 0, 1e-3)
    }
    counted = estimator.calibration_hits / estimator.calibration_seen
    expected = [min((1 / (1 + np.exp(-np.clip(found, -9, 9))) + counted[fine]) / 2, MAX_PROB) for fine in bins]
    assert min(abs(estimates[1] - value) for value in expected) < 1e-3


@given(seed=st.integers(0, 2**32), right=st.booleans())
def test_it_learns_down_the_gradient_of_coding_cost(seed: int, right: bool) -> None:
    estimator, before, cells = fitted_estimator(), fitted_estimator(), some_cells(seed)
    estimating.learn_outcome(estimator, cells, right, np.empty(VECTOR_SIZE, np.float32))
    vectors = before.vectors.astype(float)
    hidden = before.weights.astype(float) @ vectors[cells].sum(0) + before.biases
    assume(np.abs(hidden).min() > 1e-3)  # at a kink there are two slopes
    chance = 1 / (1 + np.exp(-np.clip(log_odds(before, vectors, cells), -9, 9)))
    slope = np.zeros(VECTOR_SIZE)
    for i in range(VECTOR_SIZE):
        up, down = vectors.copy(), vectors.copy()
        up[cells[0], i] += 1e-7
        down[cells[0], i] -= 1e-7
        slope[i] = (log_odds(before, up, cells) - log_odds(before, down, cells)) / 2e-7
    moved = estimator.vectors.astype(float) - vectors
    step = float(LEARNING_RATE) * (right - chance) * slope
    assert moved[cells] == pytest.approx(np.tile(step, (FEATURES, 1)), abs=2e-6)
    assert np.count_nonzero(moved.any(1)) <= FEATURES
    assert np.count_nonzero(estimator.calibration_seen != before.calibration_seen) == 1


def test_last_seen_is_told_by_powers_of_two() -> None:
    cells = [last_seen_cell(ago) - FIRST_CELL[LAST_SEEN] for ago in (0, 1, 2, 3, 4, 5, 8, 9, 16, 17, 32)]
    assert cells == [0, 1, 2, 3, 3, 4, 4, 5, 5, 6, 6]


def test_last_seen_is_that_of_the_latest_time() -> None:
    text, candidates, estimator = list(range(100, 132)), Candidates.empty(), fitted_estimator()
    for said, token, ago in ((text, 131, 1), (text, 100, 32), ([99, *text], 99, 0), (text, 7, 0), ([5, 6, 5], 5, 1)):
        clear(candidates)
        set_circumstances(candidates.unlisted, 0, 1.0)
        estimating.sum_vectors(estimator, candidates.unlisted, candidates.base)
        add(candidates, token, 1.0)
        _set_last_seen_cells(candidates, estimator, context_of(said, len(said)))
        assert candidates.cells[0, LAST_SEEN] == last_seen_cell(ago)
