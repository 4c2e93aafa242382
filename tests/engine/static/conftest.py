"""Fixtures of the static path."""

from __future__ import annotations

from typing import Any

import pytest

from racer.core import kv_cache as cache_module
from racer.guard import Guard
from racer.step.verdict import Verdict
from racer.step.view import StepView


@pytest.fixture
def small_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short runs cross many attention lengths, and storage grows on the way."""
    monkeypatch.setattr("racer.engine.static.shapes.SLOTS", 8)
    monkeypatch.setattr(cache_module, "GROWTH", 8)
    monkeypatch.setattr("racer.engine.static.shapes.NODES", (1, 4, 8))


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Trees that drafters were shown from outside the captured step, by their widths."""
    widths: list[int] = []

    def observe(guard: Guard, view: StepView, tree: Any, verdict: Verdict) -> None:
        widths.append(tree.width)
        guard.attempt(guard.drafter.observe, view, tree, verdict)

    monkeypatch.setattr(Guard, "observe", observe)
    return widths
