"""Who may speak for a candidate, and the cell in which what a voice says is counted.

A voice that speaks gives every candidate one cell: a coarse description of what it says about it (the bin of its
probability, the length of its match, or "did not name it"). How often candidates of a cell turn out right is counted
(:mod:`racer.strategies.context.odds`); that, not the voice's own number, is its estimate.
"""

from __future__ import annotations

import numpy as np

from racer.strategies.context.blends import BLENDS
from racer.strategies.context.compiled import Number, compiled
from racer.strategies.context.cues import LONGEST, TRUSTS
from racer.strategies.context.hints import DEPTHS

LATEST = 0
"""The cues after the last 1, 2, ... tokens: one voice each."""
BLENDED = LATEST + LONGEST
"""The blends: one voice each."""
MATCH = BLENDED + BLENDS
"""The longest suffix match that goes on with the candidate, beside the longest of all."""
VOTES = MATCH + 1
"""How many of the matches go on with it."""
NEAR = VOTES + 1
"""The prediction of the latest scored position: what it thought likely often comes a little later."""
FAR = NEAR + 1
"""The predictions of the positions before it."""
ALIGNED = FAR + 1
"""What rejected guesses of the last step expected at this depth."""
VOICES = ALIGNED + 1

EDGES = np.array([0.003, 0.01, 0.03, 0.06, 0.12, 0.22, 0.36, 0.5, 0.65, 0.8, 0.93], np.float32)
PROB_BINS = len(EDGES) + 1
NAMELESS = PROB_BINS
"""The bin behind those of the probabilities: the voice speaks, but does not name the candidate."""
SAID = PROB_BINS + 1
LENGTH_BINS = 8
MOST_VOTES = 8
REACH = 5
"""Positions ahead (0 to 4) for which a recent prediction is told apart."""

_SIZES = (
    *[TRUSTS * SAID] * LONGEST,
    *[SAID] * BLENDS,
    LENGTH_BINS * (LENGTH_BINS + 1),
    2 * (MOST_VOTES + 1) ** 2,
    *[1 + REACH * PROB_BINS] * 2,
    DEPTHS * SAID,
)
FIRST = np.concatenate(([0], np.cumsum(_SIZES))).astype(np.int32)
"""``[VOICES + 1]`` each voice's first cell."""
CELLS = int(FIRST[-1])
SILENT = CELLS
"""The cell of a voice that does not speak; nothing is counted in it."""

LENGTH_SETS = 3
SITUATIONS_A = (LONGEST + 1) * LENGTH_SETS
DEPTH_SETS = 4
SITUATIONS_B = DEPTH_SETS * (LONGEST + 1) * 4


@compiled
def prob_bin(prob: Number) -> Number:
    """0 to ``PROB_BINS - 1``, about evenly spread in log-odds."""
    found = 0
    for edge in EDGES:
        found += prob > edge
    return found


@compiled
def length_bin(length: int) -> Number:
    """0 (no match) to ``LENGTH_BINS - 1`` (more than 20 tokens)."""
    return (length > 0) + (length > 2) + (length > 3) + (length > 5) + (length > 8) + (length > 12) + (length > 20)


@compiled
def situation_a(longest_cue: int, longest_match: int) -> Number:
    """Which weights apply to a node's children: by the longest context that has cues, and the match."""
    return longest_cue * LENGTH_SETS + (longest_match > 0) + (longest_match > 5)


@compiled
def situation_b(depth: int, named: int, near: bool, aligned: bool) -> Number:
    """The same by the node's depth, by how many cues name the candidate, and by which hints do."""
    return (min(depth, DEPTH_SETS - 1) * (LONGEST + 1) + named) * 4 + near + 2 * aligned
