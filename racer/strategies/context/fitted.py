"""Where the estimator's learning starts: what cells were worth elsewhere, before the first token is guessed."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from racer.errors import StateError
from racer.strategies.context.estimator import CALIBRATION_BINS, HIDDEN, MAX_LOG_ODDS, SHAPES, Estimator
from racer.strategies.context.schema import schema_hash

FITTED = Path(__file__).with_name("fitted.npz")
"""What was fitted to the package's own questions and models of three families (``benchmarks/fit_start.py``)."""
FITTED_WEIGHT = 200.0
"""Candidates that a bin of the calibration table stands for at most, so that another model's text soon counts for
itself."""
SCHEMA = "schema"
"""The entry of the file that holds the :func:`~racer.strategies.context.schema.schema_hash`; the others are arrays."""


@cache
def _shipped() -> Estimator:
    return read_fitted(FITTED)


def fitted_estimator() -> Estimator:
    """The start that ``racer`` uses.

    :raises StateError: it was fitted to other features.
    """
    return Estimator.of(**_shipped()._asdict())


def read_fitted(path: Path) -> Estimator:
    """What :func:`write_fitted` wrote.

    :raises StateError: it was fitted to other features.
    :raises OSError: it cannot be read.
    """
    with np.load(path) as file:
        parts = dict(file)
    if str(parts.pop(SCHEMA, "")) != schema_hash():
        raise StateError(f"{path} was fitted to other features than these: run benchmarks/fit_start.py")
    return Estimator.of(**parts)


def write_fitted(path: Path, estimator: Estimator) -> None:
    """Write a start to an ``.npz`` file, with the hash of the features that it belongs to."""
    parts: dict[str, Any] = {SCHEMA: np.array(schema_hash()), **estimator._asdict()}
    np.savez(path, **parts)


def unfitted_estimator(prob: float = 0.02) -> Estimator:
    """A start that nothing was fitted to: every candidate is estimated at ``prob``, whatever its features."""
    parts: dict[str, NDArray[Any]] = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    parts["output"][HIDDEN] = np.log(prob / (1 - prob))
    limit = float(MAX_LOG_ODDS)
    middle = (np.arange(CALIBRATION_BINS) + 0.5) * 2 * limit / CALIBRATION_BINS - limit
    parts["calibration_seen"] = np.full(CALIBRATION_BINS, 10.0)
    parts["calibration_hits"] = 10 / (1 + np.exp(-middle))
    return Estimator.of(**parts)
