"""Figures of many calls, and how sure they are."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from racer.bench import reliability
from racer.bench.trials import Measured
from racer.step.stats import PHASES

RESAMPLES = 2000
MIN_UNITS = 5
"""Resampling fewer questions (or batches) says next to nothing."""
MAX_DEPTH = 24
Interval = list[float] | None


def split(calls: list[Measured]) -> dict[str, float] | None:
    """Milliseconds a step by phase; the prefill's an answer. ``host`` is all that no phase has."""
    steps = sum(len(call.nodes) for call in calls)
    if not calls or not steps:
        return None
    spent: dict[str, float] = defaultdict(float)
    for call in calls:
        for phase, milliseconds in (call.milliseconds or {}).items():
            spent[phase] += milliseconds
    whole = spent.pop("call")
    host = max(0.0, whole - sum(spent[phase] for phase in PHASES))
    per_step = {phase: spent[phase] / steps for phase in PHASES if phase != "prefill"}
    return {"prefill": spent["prefill"] / len(calls), **per_step, "host": host / steps}


def by_depth(lengths: Sequence[int]) -> list[float]:
    """Share of steps that keep at least d drafted tokens, for d = 1, 2, ..."""
    deepest = min(max(lengths, default=1) - 1, MAX_DEPTH)
    return [sum(length > depth for length in lengths) / len(lengths) for depth in range(1, deepest + 1)]


def cost_curve(calls: list[Measured]) -> list[dict[str, Any]]:
    """Median wall-clock time of a step by its nodes."""
    times: dict[int, list[float]] = defaultdict(list)
    for call in calls:
        for nodes, milliseconds in zip(call.nodes, call.step_milliseconds, strict=False):
            if milliseconds is not None:
                times[nodes].append(milliseconds)
    return [
        {"nodes": nodes, "milliseconds": statistics.median(spent), "steps": len(spent)}
        for nodes, spent in sorted(times.items())
    ]


def reliabilities(calls: list[Measured]) -> dict[str, Any] | None:
    """Predicted against observed acceptance, by kind of score; None for drafters that give no scores."""
    parts = [call.reliability for call in calls if call.reliability is not None]
    return {name: reliability.summary([part[name] for part in parts]) for name in ("path", "child")} if parts else None


def median(values: Sequence[float]) -> float | None:
    """None of nothing."""
    return statistics.median(values) if values else None


def bootstrap(units: NDArray[np.float64]) -> Interval:
    """95 % percentile interval of a ratio of sums, ``units [n, 2]`` drawn anew; None for too few to tell."""
    if len(units) < MIN_UNITS:
        return None
    draw = np.random.default_rng(0)
    sums = units[draw.integers(len(units), size=(RESAMPLES, len(units)))].sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = np.percentile(sums[:, 0] / sums[:, 1], [2.5, 97.5])
    return [float(low), float(high)] if np.isfinite([low, high]).all() else None
