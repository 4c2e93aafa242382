"""Who may use which stage: static state is kept with its model from call to call, and lent to one call at a time.

A captured graph holds addresses and constants. A stage is therefore only lent again as long as the model's weights lie
where they lay, and its modules have the settings that they had.
"""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict
from collections.abc import Hashable
from itertools import chain
from typing import Any
from weakref import WeakKeyDictionary

import attrs
import torch

from racer.core.grouped_attention import implementation
from racer.core.model_runner import ModelRunner, call_model
from racer.core.packed_weights import is_stand_in
from racer.engine.static.compile import compiled_call
from racer.engine.static.cuda_graphs import Eager, Graphs, GraphWarning
from racer.engine.static.device_batch import DeviceBatch
from racer.engine.static.step import Runner
from racer.errors import ConfigError

MAX_IDLE = 2
"""Stages that a model keeps while nobody uses them; the least recently used one is dropped."""


@attrs.define(eq=False)
class Lease:
    """A stage in use by one call."""

    key: Hashable
    stage: DeviceBatch
    runner: Runner
    print: int
    """The model's when it was lent."""


@attrs.define(eq=False)
class _Shelf:
    """What a model keeps between calls."""

    print: int
    idle: OrderedDict[Hashable, Lease] = attrs.field(factory=OrderedDict)
    refused: set[str] = attrs.field(factory=set)
    """Ways that were tried in vain."""


_shelves: WeakKeyDictionary[Any, _Shelf] = WeakKeyDictionary()
_lock = threading.Lock()


def way_of(choice: str, device: torch.device) -> str:
    """What ``DecodeConfig.compile`` means for a model on ``device``: "off", "static", "graphs" or "inductor".

    :raises ConfigError: graphs are asked for where there is no CUDA.
    """
    if choice == "auto":
        return "off"  # graphs have not yet run on a GPU: nobody gets them unasked
    if choice == "graphs" and device.type != "cuda":
        raise ConfigError(
            f"compile='graphs' needs a model on a CUDA device, and this one is on {device}: move it there, or choose "
            "'auto', 'inductor' or 'off'"
        )
    return choice


def borrow(core: ModelRunner, way: str, padding: list[int], capacity: int) -> Lease | None:
    """An opened stage for a call over ``len(padding)`` rows; None where it must be decoded in dynamic shapes."""
    if way == "off":
        return None
    device = core.model.device
    reason = _obstacle(core)
    with _lock:
        shelf = _shelf(core.model)
        if way in shelf.refused:
            return None
        if reason is not None:
            shelf.refused.add(way)
            warnings.warn(f"{type(core.model).__name__} is decoded without static shapes: {reason}", GraphWarning, 2)
            return None
        key = (way, len(padding), core.model.dtype, torch.is_inference_mode_enabled())
        lease = shelf.idle.pop(key, None)
    if lease is None:
        stage = DeviceBatch(core.plan.layout, len(padding), capacity)
        lease = Lease(key, stage, _runner(way, device), shelf.print)
    if lease.stage.open(padding, capacity):
        lease.runner.machine.forget()
    return lease


def give_back(core: ModelRunner, lease: Lease) -> None:
    """Keep the stage for the next call of its kind."""
    if lease.stage.device.type == "cuda":
        torch.cuda.current_stream(lease.stage.device).synchronize()  # the next call may come on another stream
    way = str(lease.key[0])  # type: ignore[index]
    with _lock:
        shelf = _shelves.get(core.model)
        if shelf is None or shelf.print != lease.print:
            return  # released, or changed since
        if way == "graphs" and not lease.runner.machine.captures:
            shelf.refused.add(way)  # dynamic shapes are faster than static ones that are not captured
            return
        shelf.idle[lease.key] = lease
        shelf.idle.move_to_end(lease.key)
        while len(shelf.idle) > MAX_IDLE:
            shelf.idle.popitem(last=False)


def release(model: Any) -> None:
    """Drop the storage and the graphs that are kept for ``model``'s next call."""
    with _lock:
        _shelves.pop(model, None)


def _runner(way: str, device: torch.device) -> Runner:
    call = compiled_call() if way == "inductor" else call_model
    if way == "static" or device.type != "cuda":
        return Runner(Eager(rehearses=way == "inductor"), call)
    return Runner(Graphs(device), call)


def _shelf(model: Any) -> _Shelf:
    """The model's shelf; a new one if the model has changed."""
    now = fingerprint(model)
    shelf = _shelves.get(model)
    if shelf is None or shelf.print != now:
        shelf = _shelves[model] = _Shelf(now)
    return shelf


def _obstacle(core: ModelRunner) -> str | None:
    """Why a model cannot be decoded in static shapes, if so."""
    devices = {part.device for part in chain(core.model.parameters(), core.plan.layout.keys, core.plan.layout.values)}
    if len(devices) > 1:
        return f"it lies on {len(devices)} devices"
    if torch.is_autocast_enabled(core.model.device.type):
        return "autocast is on, which keeps casts of its weights between operations"
    return None


def fingerprint(model: Any) -> int:
    """A hash of all that a captured graph of ``model`` takes for constant.

    Where weights and buffers lie, the hooks on modules, and every plain setting of a module (an adapter that is
    switched off, a scale). Contents of weights may change; graphs read them anew.
    """
    places = tuple(part.data_ptr() for part in chain(model.parameters(), model.buffers()))
    settings = tuple(
        (
            id(module),
            len(module._forward_hooks),
            len(module._forward_pre_hooks),
            *(  # a list: another thread may be exchanging forwards for packed weights' just now
                (name, _plain(value))
                for name, value in list(vars(module).items())
                if name not in _OF_ANY_MODULE and not is_stand_in(value)
            ),
        )
        for module in model.modules()
    )
    attention = implementation(model.config.get_text_config())
    return hash((places, settings, attention, torch.get_float32_matmul_precision()))


_OF_ANY_MODULE = frozenset(vars(torch.nn.Module())) - {"training"}


def _plain(value: Any, depth: int = 1) -> Hashable:
    """Numbers, texts and small collections of them; anything else counts as its type."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if depth and isinstance(value, dict):
        return tuple((str(name), _plain(part, depth - 1)) for name, part in value.items())
    if depth and isinstance(value, (list, tuple)):
        return tuple(_plain(part, depth - 1) for part in value)
    return type(value).__name__
