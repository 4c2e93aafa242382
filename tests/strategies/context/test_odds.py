"""The network that weighs the voices, against the same in numpy, and its learning against finite differences."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from racer.strategies.context import odds as weighing
from racer.strategies.context.candidates import MOST, Candidates, add, clear, tell
from racer.strategies.context.evidence import _describe_echoes
from racer.strategies.context.hashing import context_of
from racer.strategies.context.odds import BOUND, FINE, HIDDEN, RATE, SIZE, SUREST, Odds
from racer.strategies.context.start import fitted_odds
from racer.strategies.context.voices import ECHO, FIRST, VOICES, echo_cell, note_circumstances


def log_odds(odds: Odds, vectors: np.ndarray, cells: np.ndarray) -> float:
    total = vectors[cells].sum(0)
    hidden = np.maximum(odds.weights.astype(float) @ total + odds.biases, 0)
    return float(total[0] + odds.outward[:HIDDEN] @ hidden + odds.outward[HIDDEN])


def some_cells(seed: int) -> np.ndarray:
    """What each voice might say."""
    return np.random.default_rng(seed).integers(FIRST[:-1], FIRST[1:]).astype(np.int16)


@given(seed=st.integers(0, 2**32), other=st.integers(0, 2**32))
def test_an_estimate_is_that_of_the_network_and_of_the_last_table(seed: int, other: int) -> None:
    odds, cells, candidates = fitted_odds(), some_cells(seed), Candidates.empty()
    clear(candidates)
    candidates.unnamed[:] = some_cells(other)
    weighing.add_up(odds, candidates.unnamed, candidates.base)
    add(candidates, 7, 1.0)
    add(candidates, 8, 1.0)
    for voice in range(VOICES):
        tell(candidates, odds, 1, voice, cells[voice])
        tell(candidates, odds, 1, voice, candidates.unnamed[voice])  # the first word counts
    total, estimates = np.empty(SIZE, np.float32), np.empty(MOST, np.float32)
    weighing.add_up(odds, cells, total)
    assert candidates.totals[:, 1] == pytest.approx(total, abs=1e-4)
    assert candidates.totals[:, 0] == pytest.approx(candidates.base)
    weighing.chances(odds, 2, candidates.totals, estimates)
    found = log_odds(odds, odds.vectors.astype(float), cells)
    bins = {min(max(int((found + shift + BOUND) * FINE / 18), 0), FINE - 1) for shift in (-1e-3, 0, 1e-3)}
    expected = [
        min((1 / (1 + np.exp(-np.clip(found, -9, 9))) + odds.final_hits[fine] / odds.final_seen[fine]) / 2, SUREST)
        for fine in bins
    ]
    assert min(abs(estimates[1] - value) for value in expected) < 1e-3


@given(seed=st.integers(0, 2**32), right=st.booleans())
def test_it_learns_down_the_gradient_of_coding_cost(seed: int, right: bool) -> None:
    odds, before, cells = fitted_odds(), fitted_odds(), some_cells(seed)
    weighing.count(odds, cells, right, np.empty(SIZE, np.float32))
    vectors = before.vectors.astype(float)
    hidden = before.weights.astype(float) @ vectors[cells].sum(0) + before.biases
    assume(np.abs(hidden).min() > 1e-3)  # at a kink there are two slopes
    chance = 1 / (1 + np.exp(-np.clip(log_odds(before, vectors, cells), -9, 9)))
    slope = np.zeros(SIZE)
    for i in range(SIZE):
        up, down = vectors.copy(), vectors.copy()
        up[cells[0], i] += 1e-7
        down[cells[0], i] -= 1e-7
        slope[i] = (log_odds(before, up, cells) - log_odds(before, down, cells)) / 2e-7
    moved = odds.vectors.astype(float) - vectors
    assert moved[cells] == pytest.approx(np.tile(float(RATE) * (right - chance) * slope, (VOICES, 1)), abs=2e-6)
    assert np.count_nonzero(moved.any(1)) <= VOICES
    assert np.count_nonzero(odds.final_seen != before.final_seen) == 1


def test_an_echo_is_told_by_powers_of_two() -> None:
    cells = [echo_cell(ago) - FIRST[ECHO] for ago in (0, 1, 2, 3, 4, 5, 8, 9, 16, 17, 32)]
    assert cells == [0, 1, 2, 3, 3, 4, 4, 5, 5, 6, 6]


def test_an_echo_is_that_of_the_latest_time() -> None:
    text, candidates, odds = list(range(100, 132)), Candidates.empty(), fitted_odds()
    for said, token, ago in ((text, 131, 1), (text, 100, 32), ([99, *text], 99, 0), (text, 7, 0), ([5, 6, 5], 5, 1)):
        clear(candidates)
        note_circumstances(candidates.unnamed, 0.0, 0, 1.0)
        weighing.add_up(odds, candidates.unnamed, candidates.base)
        add(candidates, token, 1.0)
        _describe_echoes(candidates, odds, context_of(said, len(said)))
        assert candidates.cells[0, ECHO] == echo_cell(ago)
