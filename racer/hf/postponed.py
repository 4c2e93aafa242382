"""A cache that is filled when somebody looks into it: most returned caches are never looked at."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any

import torch
from transformers import cache_utils
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

INDEXED: Any = getattr(cache_utils, "DynamicIndexedLayer", DynamicLayer)
"""Of layers with an indexer; an older transformers has none."""
READABLE = (DynamicLayer, DynamicSlidingWindowLayer, INDEXED)
"""Classes of layers whose states RACER reads and writes."""


def _read(layer: Any, name: str) -> Any:
    _settle(layer)
    return getattr(layer, name)


def _write(layer: Any, name: str, value: Any) -> None:
    _settle(layer)
    setattr(layer, name, value)


def _stand_in(kind: type) -> type:
    """A class for layers that are of class ``kind`` as soon as anything of them is read or set."""
    return type(f"Postponed{kind.__name__}", (kind,), {"__getattribute__": _read, "__setattr__": _write})


STAND_INS = {kind: _stand_in(kind) for kind in READABLE}
"""From a layer's class to the one that stands in for it."""


class _Fill:
    """The work that waits, done once."""

    def __init__(self, cache: Any, fill: Callable[[Any], None]) -> None:
        self._layers, self._fill, self._lock = list(cache.layers), fill, threading.Lock()
        self._aside = copy.copy(cache)
        self._aside.layers = [copy.copy(layer) for layer in cache.layers]
        self._inference = torch.is_inference_mode_enabled()  # what was made inside can only be written to inside

    def __call__(self) -> None:
        with self._lock:
            if not self._layers:
                return
            with torch.inference_mode(self._inference), torch.no_grad():
                self._fill(self._aside)
            for layer, full in zip(self._layers, self._aside.layers, strict=True):
                state = object.__getattribute__(layer, "__dict__")
                if "_fill" in state:
                    state.update(vars(full))
                    object.__setattr__(layer, "__class__", type(full))  # from now on nobody asks us
                    del state["_fill"]
            self._layers, self._aside = [], None


def _settle(layer: Any) -> None:
    fill = object.__getattribute__(layer, "__dict__").get("_fill")
    if fill is not None:  # another thread may have been faster
        fill()


def postpone(cache: Any, fill: Callable[[Any], None]) -> None:
    """Call ``fill`` with a cache like this one, and take over what it puts there, when a layer is first looked at.

    :param cache: a :class:`transformers.DynamicCache` whose layers are there and empty.
    """
    work = _Fill(cache, fill)
    for layer in cache.layers:
        if type(layer) in STAND_INS:  # others store nothing
            vars(layer)["_fill"] = work
            layer.__class__ = STAND_INS[type(layer)]
