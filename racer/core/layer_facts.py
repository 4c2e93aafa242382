"""What a recording of a layer rests on, beside where its weights lie: looked at between calls.

Within a call a recording is used while modules, hooks and weights are what they were
(:meth:`racer.core.layer_program.Program.is_current`). From one call to the next anything may have been set otherwise: a
number on a module, a configuration, the forward of a class, a function that it calls. All of it is compared, so that a
recording that outlives its call gives what the layer itself would give.
"""

from __future__ import annotations

import ctypes
import enum
import functools
import inspect
from collections.abc import Iterator
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import attrs
import torch
from torch import nn
from transformers import PretrainedConfig

_SCALARS = (bool, int, float, complex, str, bytes, type(None))
_WHOLE = (type, FunctionType, BuiltinFunctionType, MethodType, ModuleType, torch.dtype, torch.device, enum.Enum)
"""What is told by being the same one, or equal."""
_DEEP = 8
"""Things within things that are looked at."""
_OWN = frozenset(vars(nn.Module()))
"""What every module has; weights and children are looked at by themselves, and nothing is recorded where hooks are."""


class _Same:
    """Equal to what holds the same object."""

    __slots__ = ("_held",)

    def __init__(self, held: Any) -> None:
        self._held = held

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self._held is other._held

    __hash__ = None  # type: ignore[assignment]


class Facts:
    """Facts of layers as they are just now. What several layers share is read once."""

    def __init__(self) -> None:
        self._classes: dict[type, list[Any]] = {}
        self._configs: dict[int, Any] = {}

    def of(self, layer: nn.Module) -> list[Any]:
        """Of a layer and all within it; equal to what was found earlier if nothing was set otherwise."""
        return [part for module in _within(layer) for part in self._of_module(module)]

    def _of_module(self, module: nn.Module) -> Iterator[Any]:
        kind, state = module.__class__, vars(module)  # a twin's class is its original's
        yield self._of_class(kind)
        for name, value in state.items():
            if name not in _OWN:
                yield name, self._of_value(value)
        yield state["training"]
        for name, held in (*state["_parameters"].items(), *state["_buffers"].items()):
            yield name, None if held is None else (_Same(held), held.dtype, held.shape, held.stride())

    def _of_value(self, value: Any, depth: int = 0) -> Any:
        kind = type(value)
        if kind in _SCALARS:
            return kind, value
        if isinstance(value, _WHOLE):
            return value
        if isinstance(value, ctypes.Array):  # made anew where it would change
            return _Same(value)
        if isinstance(value, PretrainedConfig):
            return self._of_config(value, depth)
        parts = _parts(value) if depth < _DEEP else None
        if parts is None:
            return _Same(object())  # equal to nothing: it may be another one by now
        return kind, [self._of_value(one, depth + 1) for one in parts]

    def _of_config(self, config: Any, depth: int) -> Any:
        if id(config) not in self._configs:
            self._configs[id(config)] = None  # one that holds itself
            self._configs[id(config)] = [(name, self._of_value(one, depth + 1)) for name, one in vars(config).items()]
        return _Same(config), self._configs[id(config)]

    def _of_class(self, kind: type) -> list[Any]:
        """What a class is made of, and what the names in its functions stand for."""
        if kind not in self._classes:
            found: list[Any] = []
            for base in kind.__mro__[: kind.__mro__.index(nn.Module)] if nn.Module in kind.__mro__ else (kind,):
                for name, value in list(vars(base).items()):
                    if isinstance(value, FunctionType):
                        found += (name, value, *_globals_of(value))
                    else:
                        found.append((name, self._of_value(value) if type(value) in _SCALARS else _Same(value)))
            self._classes[kind] = found
        return self._classes[kind]


def _parts(value: Any) -> list[Any] | None:
    """What a value consists of, if that is all it is."""
    kind = type(value)
    if kind in (list, tuple):
        return list(value)
    if kind in (set, frozenset):
        return sorted(value, key=repr)
    if kind is dict:
        return [one for pair in value.items() for one in pair]
    if kind is functools.partial:
        return [value.func, value.args, value.keywords]
    if attrs.has(kind) and "__dict__" not in dir(kind):
        return list(attrs.astuple(value, recurse=False))
    return None


def _globals_of(function: FunctionType) -> Iterator[Any]:
    code: Any = inspect.unwrap(function)
    if isinstance(code, FunctionType):
        for name in code.__code__.co_names:
            if name in code.__globals__:
                yield _Same(code.__globals__[name])


def _within(module: Any) -> Iterator[Any]:
    yield module
    for child in vars(module)["_modules"].values():
        if child is not None:
            yield from _within(child)
