"""What the numbers of cells and the keys of tables stand for, as one hash.

The fitted start and saved states are arrays by cell and by key. If a feature, an edge of a bin or the layout of a key
changes, they may still have the right shapes, but other meanings; so they carry this hash, and where it differs they
are refused.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np

from racer.strategies.context import (
    estimator,
    extraction,
    features,
    hash_table,
    hashing,
    history,
    matches,
    recent,
    running_means,
    top_k_table,
)


def schema() -> dict[str, Any]:
    """Every constant that gives a cell, a vector or a key its meaning, by what it is."""
    return {
        "cells of features": features.CELL_COUNTS,
        "first cells": features.FIRST_CELL,
        "missing cells": features.MISSING,
        "probability edges": features.PROB_EDGES,
        "rest edges": features.REST_EDGES,
        "match length edges": features.LENGTH_EDGES,
        "last seen edges": features.AGO_EDGES,
        "depth bins": features.DEPTH_BINS,
        "bins ahead": features.AHEAD_BINS,
        "most votes": features.MAX_VOTES,
        "least listed probability": extraction.MIN_PROB,
        "ids of far positions": extraction.FAR_IDS,
        "vector size": estimator.VECTOR_SIZE,
        "hidden size": estimator.HIDDEN,
        "calibration bins": estimator.CALIBRATION_BINS,
        "most log-odds": estimator.MAX_LOG_ODDS,
        "context width": hashing.CONTEXT_WIDTH,
        "no token": hashing.NO_TOKEN,
        "table columns": (hash_table.TAG, hash_table.NOTE, hash_table.IDS),
        "longest top-k context": top_k_table.MAX_CONTEXT,
        "confidences": (top_k_table.STORED_CONFIDENCES, top_k_table.CONFIDENCES),
        "request numbers": top_k_table.REQUEST_NUMBERS,
        "kinds of means": running_means.MEANS,
        "keys of means": (running_means.FROM, running_means.TO),
        "decay of means": running_means.DECAY,
        "gram": history.GRAM,
        "matches": (matches.MAX_MATCHES, matches.MAX_TRIES, matches.MAX_SINGLE_TRIES),
        "recent positions": recent.POSITIONS,
        "aligned": (recent.ALIGNED_DEPTHS, recent.ALIGNED_IDS, recent.REJECTED_IDS),
    }


def schema_hash() -> str:
    """SHA-256 of :func:`schema`, in hexadecimal."""
    return hashlib.sha256(json.dumps(schema(), default=_plain).encode()).hexdigest()


def _plain(value: np.ndarray | np.generic) -> Any:
    """What numpy gives, as JSON has it: float32 exactly, as the float64 of the same value."""
    return value.tolist()
