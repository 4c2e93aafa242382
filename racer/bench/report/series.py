"""What the plots show: of each plot the methods that have something to show, with their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from racer.bench.report.findings import SPEEDUP
from racer.bench.report.reading import PLAIN, Run

Points = Sequence[tuple[float, float]]


def gains(run: Run) -> dict[str, list[tuple[int, float, tuple[float, float] | None]]]:
    """By method: place on the axis, speedup, interval."""
    found = {
        method: [
            (place, value, run.interval(method, SPEEDUP, group))
            for place, group in enumerate(run.columns)
            if (value := run.value(method, SPEEDUP, group)) is not None
        ]
        for method in run.methods
        if method != PLAIN
    }
    return {method: bars for method, bars in found.items() if bars}


def depths(run: Run) -> dict[str, Points]:
    found: dict[str, Points] = {
        m: [(d, share) for d, share in enumerate(run.depths(m), 1) if share is not None] for m in run.methods
    }
    return {method: points for method, points in found.items() if points}


def splits(run: Run) -> dict[str, dict[str, float]]:
    return {method: spent for method in run.methods if (spent := run.split(method))}


def costs(run: Run) -> dict[str, Points]:
    return {method: points for method in run.methods if (points := run.costs(method))}


def reliabilities(run: Run) -> dict[str, dict[str, dict[str, Any]]]:
    return {method: kinds for method in run.methods if (kinds := run.reliability(method))}
