"""Where learning starts: what cells were worth elsewhere, before the first token was ever guessed."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from racer.strategies.context.odds import BOUND, FINE, HIDDEN, SHAPES, Odds

FITTED = Path(__file__).with_name("start.npz")
"""What was fitted to the package's own questions and the embedded model (``benchmarks/fit_start.py``)."""
FITTED_WEIGHT = 200.0
"""Candidates that a bin of the last table stands for at most, so that another model's text soon counts for itself."""

Array = NDArray[np.float32]


def fitted_odds() -> Odds:
    """The start that ``racer`` uses."""
    return Odds.of(**_fitted())


@cache
def _fitted() -> dict[str, Array]:
    with np.load(FITTED) as parts:
        return dict(parts)


def unknowing_odds(base: float = 0.02) -> Odds:
    """A start that nothing was fitted to: every candidate is thought right with probability ``base``, whoever speaks
    for it."""
    parts: dict[str, NDArray[Any]] = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    parts["outward"][HIDDEN] = np.log(base / (1 - base))
    middle = (np.arange(FINE) + 0.5) * 2 * float(BOUND) / FINE - float(BOUND)
    parts["final_seen"] = np.full(FINE, 10.0)
    parts["final_hits"] = 10 / (1 + np.exp(-middle))
    return Odds.of(**parts)
