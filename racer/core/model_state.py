"""Everything that RACER keeps for one model, in one place: it goes with the model, or when it is released."""

from __future__ import annotations

import threading
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

Part = TypeVar("Part")


class StatePart:
    """What one module keeps for a model and has to undo. Parts with nothing to undo may be of any class."""

    def release(self, model: Any) -> None:
        """Undo what was done to ``model``; memory goes by itself."""


class ModelState:
    """The parts that are kept for one model, by their classes."""

    def __init__(self) -> None:
        self._parts: dict[type[Any], Any] = {}
        self._lock = threading.RLock()

    def part(self, kind: type[Part]) -> Part:
        """The part of class ``kind``, made without arguments when it is first asked for."""
        with self._lock:
            if kind not in self._parts:
                self._parts[kind] = kind()
            part: Part = self._parts[kind]
            return part

    def find(self, kind: type[Part]) -> Part | None:
        """The same, or None where nobody asked for it yet."""
        return self._parts.get(kind)

    def release(self, model: Any) -> None:
        """Let every part undo what it did to ``model``."""
        for part in list(self._parts.values()):
            if isinstance(part, StatePart):
                part.release(model)


_states: WeakKeyDictionary[Any, ModelState] = WeakKeyDictionary()
_lock = threading.Lock()


def state_of(model: Any) -> ModelState:
    """What is kept for ``model``; empty at first."""
    with _lock:
        return _states.setdefault(model, ModelState())


def find_state(model: Any) -> ModelState:
    """The same to look at: nothing is kept for a model that has none."""
    return _states.get(model) or ModelState()


def release(model: Any) -> None:
    """Give back all memory that RACER keeps for ``model``, and undo every change that it made to it.

    Packed weights, static caches and their graphs, what drafters have learned and what steps have cost are forgotten,
    and :func:`racer.attach` is undone; the next call starts anew. Calls that are running go on with what they hold, and
    a :class:`racer.Decoder` keeps what its own drafters have learned.

    :param model: a Hugging Face causal LM, attached or not, or what ``torch.compile`` or PEFT made of it.
    """
    model = uncompiled(model)
    for part in dict.fromkeys((model, base_of(model))):
        with _lock:
            state = _states.pop(part, None)
        if state is not None:
            state.release(part)


def uncompiled(model: Any) -> Any:
    """The model that ``torch.compile`` wraps; any other is what it is."""
    return getattr(model, "_orig_mod", model)


def base_of(model: Any) -> Any:
    """The model whose decoding loop transformers runs: what PEFT wraps; any other is what it is."""
    return model.get_base_model() if hasattr(type(model), "get_base_model") else model
