"""Who may speak for a candidate, and the cell that stands for what a voice says of it.

A voice gives every candidate one cell: a coarse description of what it says about it (the bin of its probability, the
length of its match, "did not name it", or "has nothing to say"). What a cell is worth is learned
(:mod:`racer.strategies.context.odds`); a voice's own number is never taken at its word.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from racer.kernels.jit import Number, compiled
from racer.strategies.context.blends import BLENDS
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
SPEAKERS = ALIGNED + 1
"""Voices that name candidates. The others tell of circumstances."""
ECHO = SPEAKERS
"""How long ago the candidate itself was said."""
SUCCESS = ECHO + 1
"""How many drafted tokens the row's latest steps kept."""
DEPTH = SUCCESS + 1
"""Of the node whose child it is."""
PARENT = DEPTH + 1
"""How likely that node was thought, as a child of its own parent."""
VOICES = PARENT + 1

EDGES = np.array([0.003, 0.01, 0.03, 0.06, 0.12, 0.22, 0.36, 0.5, 0.65, 0.8, 0.93], np.float32)
PROB_BINS = len(EDGES) + 1
REST_EDGES = np.array([0.03, 0.1, 0.3], np.float32)
"""What is left for tokens that a voice does not name parts these bins, which stand behind those of the named."""
SAID = PROB_BINS + len(REST_EDGES) + 1
LENGTH_BINS = 9
MOST_VOTES = 8
REACH = 5
"""Positions ahead (0 to 4) for which a recent prediction is told apart."""
ECHO_BINS = 7
SUCCESS_EDGES = np.array([0.3, 0.8, 1.5, 2.5, 4.0], np.float32)
DEPTH_BINS = 8

_SIZES = np.array(
    (
        *[TRUSTS * SAID] * LONGEST,
        *[SAID] * BLENDS,
        LENGTH_BINS * (LENGTH_BINS + 1),
        2 * (MOST_VOTES + 1) ** 2,
        *[1 + REACH * PROB_BINS] * 2,
        DEPTHS * SAID,
        ECHO_BINS,
        len(SUCCESS_EDGES) + 1,
        DEPTH_BINS,
        PROB_BINS,
    )
)
FIRST = np.concatenate(([0], np.cumsum(_SIZES + 1))).astype(np.int32)
"""``[VOICES + 1]`` each voice's first cell."""
CELLS = int(FIRST[-1])
SILENT = (FIRST[1:] - 1).astype(np.int16)
"""``[VOICES]`` each voice's last cell: it has nothing to say."""


@compiled
def _bin(edges: NDArray[np.float32], value: Number) -> Number:
    found = 0
    for edge in edges:
        found += value > edge
    return found


@compiled
def prob_bin(prob: Number) -> Number:
    """0 to ``PROB_BINS - 1``, about evenly spread in log-odds."""
    return _bin(EDGES, prob)


@compiled
def nameless_bin(mass: Number) -> Number:
    """The bin of what a voice does not name, by the probability of all that it names."""
    return PROB_BINS + _bin(REST_EDGES, 1 - mass)


@compiled
def length_bin(length: int) -> Number:
    """0 (no match) to ``LENGTH_BINS - 1`` (more than 20 tokens)."""
    short = (length > 0) + (length > 1) + (length > 2) + (length > 3)
    return short + (length > 5) + (length > 8) + (length > 12) + (length > 20)


@compiled
def echo_cell(ago: int) -> Number:
    """The cell of :data:`ECHO` for a token last said ``ago`` tokens ago, by powers of two; 0: not in the context."""
    return FIRST[ECHO] + (ago > 0) + (ago > 1) + (ago > 2) + (ago > 4) + (ago > 8) + (ago > 16)


@compiled
def note_circumstances(cells: NDArray[np.int16], success: Number, depth: int, chance: Number) -> None:
    """Write the cells of what is the same for all children of a node, but for those that echo its context.

    :param cells: ``[VOICES]``
    :param success: running average of the drafted tokens that the row's steps kept.
    :param depth: of the node.
    :param chance: the node's own estimated chance.
    """
    cells[SUCCESS] = FIRST[SUCCESS] + _bin(SUCCESS_EDGES, success)
    cells[ECHO] = echo_cell(0)
    cells[DEPTH] = FIRST[DEPTH] + min(depth, DEPTH_BINS - 1)
    if depth > 0:
        cells[PARENT] = FIRST[PARENT] + prob_bin(chance)
