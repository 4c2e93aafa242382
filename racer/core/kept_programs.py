"""Recordings of a model's layers, between the calls that use them."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from typing import Any

from racer.core.layer_programs import LayerPrograms

KEPT = 2
"""Calls of a kind, at the same time, whose recordings are kept."""


class KeptPrograms:
    """The recordings of one model, between the calls that use them. They hold its layers, but not the model."""

    def __init__(self) -> None:
        self._kept: dict[Hashable, list[LayerPrograms]] = {}
        self._lock = threading.Lock()

    def take(self, model: Any, kind: Hashable) -> LayerPrograms:
        """Those of an earlier call of this kind that hold for the model as it is now; else new ones."""
        with self._lock:
            kept = self._kept.get(kind)
            programs = kept.pop() if kept else None
        return programs if programs is not None and programs.are_current(model) else LayerPrograms()

    def give_back(self, kind: Hashable, programs: LayerPrograms) -> None:
        """After the call. Of those that are too many, the oldest go."""
        programs.rest()
        if programs.made:
            with self._lock:
                kept = self._kept.setdefault(kind, [])
                kept.append(programs)
                del kept[:-KEPT]
