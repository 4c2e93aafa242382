"""results.json as the report reads it, where any figure may be missing."""

from __future__ import annotations

import math
from typing import Any

import attrs

from racer.bench.methods import BASELINES, foreign
from racer.step.stats import PHASES

PLAIN, HF = BASELINES
STEP_PHASES = (*PHASES[1:], "host")
"""Without the prefill, and with the time outside all phases."""


def known(value: Any) -> float | None:
    """The number, if it was measured."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value


def positive(value: Any) -> float | None:
    """The number, if it was measured and has a logarithm."""
    number = known(value)
    return number if number is not None and number > 0 else None


@attrs.frozen
class Run:
    """The results of a run."""

    results: dict[str, Any]

    @property
    def setup(self) -> dict[str, Any]:
        """What was run."""
        return self.results.get("setup") or {}

    @property
    def failures(self) -> list[dict[str, Any]]:
        """Calls that failed, or in which a plugin did: these are answered."""
        return self.results.get("failures") or []

    @property
    def methods(self) -> list[str]:
        """In the order of the run."""
        return list(dict.fromkeys([*(self.setup.get("methods") or []), *self._methods]))

    @property
    def groups(self) -> list[str]:
        """In the order of the run."""
        measured = [group for entry in self._methods.values() for group in entry.get("groups") or {}]
        return list(dict.fromkeys([*(self.setup.get("groups") or {}), *measured]))

    @property
    def columns(self) -> list[str | None]:
        """Of tables by group: None, which is all questions, where that is not the one group there is."""
        return list(self.groups) if len(self.groups) == 1 else [None, *self.groups]

    @property
    def drafters(self) -> list[str]:
        """RACER's methods: neither plain decoding nor those of others."""
        return [method for method in self.methods if method != PLAIN and not foreign(method)]

    @property
    def exact(self) -> list[str]:
        """Those of RACER's methods whose verifier keeps the output of plain decoding."""
        return [method for method in self.drafters if method not in (self.setup.get("lossy") or [])]

    @property
    def _methods(self) -> dict[str, dict[str, Any]]:
        return self.results.get("methods") or {}

    def part(self, method: str, name: str) -> Any:
        """What a method has beside figures: its cost curve, its reliability; None where it has not."""
        return (self._methods.get(method) or {}).get(name)

    def figures(self, method: str, group: str | None = None) -> dict[str, Any]:
        """A method's figures in a group, or over all questions; empty where there are none."""
        if group is None:
            return self.part(method, "overall") or {}
        return (self.part(method, "groups") or {}).get(group) or {}

    def value(self, method: str, figure: str, group: str | None = None) -> float | None:
        """One figure."""
        return known(self.figures(method, group).get(figure))

    def interval(self, method: str, figure: str, group: str | None = None) -> tuple[float, float] | None:
        """Its confidence interval."""
        low, high = map(known, self.figures(method, group).get(f"{figure}_ci") or (None, None))
        return None if low is None or high is None else (low, high)

    def split(self, method: str) -> dict[str, float]:
        """Milliseconds of a step by phase."""
        spent = self.figures(method).get("milliseconds") or {}
        return {phase: value for phase in STEP_PHASES if (value := known(spent.get(phase))) is not None}

    def costs(self, method: str) -> list[tuple[float, float]]:
        """Nodes of a step, and its milliseconds."""
        points = [
            (positive(point.get("nodes")), known(point.get("milliseconds")))
            for point in self.part(method, "cost_curve") or []
        ]
        return sorted((nodes, cost) for nodes, cost in points if nodes is not None and cost is not None)

    def depths(self, method: str) -> list[float | None]:
        """Share of steps that keep at least 1, 2, ... drafted tokens."""
        return [known(share) for share in self.figures(method).get("acceptance_by_depth") or []]

    def reliability(self, method: str) -> dict[str, dict[str, Any]]:
        """By kind of score, those that have a bin with something in it."""
        kinds = self.part(method, "reliability") or {}
        return {kind: found for kind, found in kinds.items() if found and filled(found)}


def filled(reliability: dict[str, Any]) -> list[tuple[float, float, float]]:
    """Of each bin with something in it: predicted chance, accepted share, count."""
    bins = [
        (known(held.get("predicted")), known(held.get("accepted")), positive(held.get("count")))
        for held in reliability.get("bins") or []
    ]
    return [(a, b, c) for a, b, c in bins if a is not None and b is not None and c is not None]
