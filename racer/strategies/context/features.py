"""The features of a candidate: categorical, each with a fixed number of cells.

A feature puts every candidate into one cell: a coarse description of what it knows of it (the bin of its probability,
the length of its match, "not listed", or "missing": the feature knows nothing of this node). What a cell is worth is
learned (:mod:`racer.strategies.context.estimator`); a feature's own probability is never taken at its word.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from racer.kernels.jit import Number, compiled
from racer.strategies.context.recent import ALIGNED_DEPTHS
from racer.strategies.context.running_means import MEANS
from racer.strategies.context.top_k_table import CONFIDENCES, MAX_CONTEXT

# Features that list candidates:
TOP_K = 0
"""The top-k table after the last 1, 2, ... tokens: one feature each."""
MEAN = TOP_K + MAX_CONTEXT
"""The running means: one feature each."""
MATCH = MEAN + MEANS
"""The longest suffix match that goes on with the candidate, beside the longest of all."""
VOTES = MATCH + 1
"""How many of the matches go on with it."""
NEAR = VOTES + 1
"""The prediction of the latest scored position: what was likely there often comes a little later."""
FAR = NEAR + 1
"""The predictions of the positions before it."""
ALIGNED = FAR + 1
"""What rejected nodes of the last step predicted at this depth."""
# Features of the circumstances, which list none:
LAST_SEEN = ALIGNED + 1
"""How long ago the candidate's token itself occurred."""
DEPTH = LAST_SEEN + 1
"""Of the node whose child it is."""
PARENT_PROB = DEPTH + 1
"""The estimated probability of that node, as a child of its own parent."""
FEATURES = PARENT_PROB + 1

PROB_EDGES = np.array([0.003, 0.01, 0.03, 0.06, 0.12, 0.22, 0.36, 0.5, 0.65, 0.8, 0.93], np.float32)
PROB_BINS = len(PROB_EDGES) + 1
REST_EDGES = np.array([0.03, 0.1, 0.3], np.float32)
"""The probability that is left for tokens that a feature does not list parts their bins, which stand behind those of
the listed ones."""
LISTING_CELLS = PROB_BINS + len(REST_EDGES) + 1
"""Cells of a listed and of an unlisted token."""
LENGTH_EDGES = np.array([0, 1, 2, 3, 5, 8, 12, 20])
LENGTH_BINS = len(LENGTH_EDGES) + 1
MAX_VOTES = 8
AHEAD_BINS = 5
"""Positions ahead (0 to 4) for which a recent prediction is told apart."""
AGO_EDGES = np.array([0, 1, 2, 4, 8, 16])
DEPTH_BINS = 8

CELL_COUNTS = {
    **{f"top-k after {n}": CONFIDENCES * LISTING_CELLS for n in range(1, MAX_CONTEXT + 1)},
    **{f"running mean {kind}": LISTING_CELLS for kind in range(MEANS)},
    "match length": LENGTH_BINS * (LENGTH_BINS + 1),
    "match votes": 2 * (MAX_VOTES + 1) ** 2,
    "near": 1 + AHEAD_BINS * PROB_BINS,
    "far": 1 + AHEAD_BINS * PROB_BINS,
    "aligned": ALIGNED_DEPTHS * LISTING_CELLS,
    "last seen": len(AGO_EDGES) + 1,
    "depth": DEPTH_BINS,
    "parent probability": PROB_BINS,
}
"""Each feature's cells, in the order of their numbers, without the one of a missing value."""
FIRST_CELL = np.concatenate(([0], np.cumsum(np.array(list(CELL_COUNTS.values())) + 1))).astype(np.int32)
"""``[FEATURES + 1]`` each feature's first cell."""
CELLS = int(FIRST_CELL[-1])
MISSING = (FIRST_CELL[1:] - 1).astype(np.int16)
"""``[FEATURES]`` each feature's last cell: it knows nothing of this node."""


@compiled
def _bin(edges: NDArray[np.float32] | NDArray[np.int64], value: Number) -> Number:
    """How many of the ``edges`` lie below ``value``."""
    found = 0
    for edge in edges:
        found += value > edge
    return found


@compiled
def prob_bin(prob: Number) -> Number:
    """0 to ``PROB_BINS - 1``, about evenly spread in log-odds."""
    return _bin(PROB_EDGES, prob)


@compiled
def unlisted_bin(mass: Number) -> Number:
    """The bin of what a feature does not list, by the probability of all that it lists."""
    return PROB_BINS + _bin(REST_EDGES, 1 - mass)


@compiled
def length_bin(length: int) -> Number:
    """0 (no match) to ``LENGTH_BINS - 1`` (more than 20 tokens)."""
    return _bin(LENGTH_EDGES, length)


@compiled
def last_seen_cell(ago: int) -> Number:
    """The cell of :data:`LAST_SEEN` for a token of ``ago`` tokens ago, by powers of two; 0: not in the context."""
    return FIRST_CELL[LAST_SEEN] + _bin(AGO_EDGES, ago)


@compiled
def set_circumstances(cells: NDArray[np.int16], depth: int, prob: Number) -> None:
    """Write the cells of what is the same for all children of a node, but for those that occur in its context.

    :param cells: ``[FEATURES]``
    :param depth: of the node.
    :param prob: the node's own estimated probability, if its parent is right.
    """
    cells[LAST_SEEN] = last_seen_cell(0)
    cells[DEPTH] = FIRST_CELL[DEPTH] + min(depth, DEPTH_BINS - 1)
    if depth > 0:
        cells[PARENT_PROB] = FIRST_CELL[PARENT_PROB] + prob_bin(prob)
