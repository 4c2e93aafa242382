"""How far a drafter's scores can be trusted: predicted against observed acceptance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from racer.step.verdict import HostVerdict

BINS = 20
Table = list[list[float]]
"""``[BINS][3]``: per bin of predicted probability the number of nodes, their sum of predictions, those accepted."""


def tables(steps: Sequence[tuple[NDArray[np.float32], HostVerdict]]) -> dict[str, Table]:
    """Count the nodes of scored trees.

    ``path`` has every drafted node, predicted to be accepted with its score. ``child`` has the nodes whose parent was
    accepted, predicted with their score divided by the parent's: the estimate that the drafter really makes.

    :param steps: scores ``[B, N]`` and the verdict of each step.
    """
    found: dict[str, Any] = {"path": np.zeros((BINS, 3)), "child": np.zeros((BINS, 3))}
    for score, host in steps:
        for row in range(len(host.length)):
            nodes = np.arange(1, host.count[row])
            kept = np.zeros(host.tokens.shape[1], dtype=bool)
            kept[host.path[row, : host.length[row]]] = True
            parent = host.parent[row, nodes]
            above = np.where(parent == 0, 1.0, score[row, parent])
            visited = kept[parent]
            _count(found["path"], score[row, nodes], kept[nodes])
            chance = score[row, nodes] / np.maximum(above, 1e-12)
            _count(found["child"], chance[visited], kept[nodes][visited])
    return {name: table.tolist() for name, table in found.items()}


def _count(table: NDArray[np.float64], predicted: NDArray[Any], hit: NDArray[np.bool_]) -> None:
    predicted = predicted.clip(0, 1).astype(np.float64)
    place = np.minimum((predicted * BINS).astype(int), BINS - 1)
    for column, weight in enumerate((None, predicted, hit)):
        table[:, column] += np.bincount(place, weight, BINS)


def summary(parts: Sequence[Table]) -> dict[str, Any] | None:
    """Bins with their mean prediction and acceptance rate, and the expected calibration error, weighted by nodes."""
    total = np.sum(parts, axis=0) if parts else np.zeros((BINS, 3))
    count, predicted, accepted = total.T
    if not count.sum():
        return None
    bins = [
        {
            "low": number / BINS,
            "high": (number + 1) / BINS,
            "count": int(count[number]),
            "predicted": predicted[number] / count[number],
            "accepted": accepted[number] / count[number],
        }
        for number in range(BINS)
        if count[number]
    ]
    return {"bins": bins, "count": int(count.sum()), "ece": float(np.abs(predicted - accepted).sum() / count.sum())}
