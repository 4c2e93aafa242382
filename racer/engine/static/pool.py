"""Static state is kept with its model from call to call, and used by one call at a time.

A captured graph holds addresses and constants. A batch is therefore only used again as long as the model's weights lie
where they lay, and its modules have the settings that they had.
"""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict
from collections.abc import Hashable
from itertools import chain
from typing import Any

import attrs
import torch

from racer.core.model_runner import ModelRunner
from racer.core.stand_in import call_model
from racer.engine.static.compile import compiled_call
from racer.engine.static.cuda_graphs import Eager, Graphs, GraphWarning
from racer.engine.static.device_batch import DeviceBatch
from racer.engine.static.launcher import Launcher
from racer.errors import ConfigError

MAX_IDLE = 2
"""Batches that a model keeps while nobody uses them; the least recently used one is dropped."""


@attrs.frozen
class PoolKey:
    """What a batch may be used again for."""

    mode: str
    rows: int
    dtype: torch.dtype
    inference: bool
    """Made under ``torch.inference_mode``: such memory could not be written to outside of it."""


@attrs.frozen(eq=False)
class PooledBatch:
    """A batch in use by one call."""

    key: PoolKey
    device_batch: DeviceBatch
    launcher: Launcher
    fingerprint: int
    """The model's when it was made."""


def step_mode(choice: str, device: torch.device) -> str:
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


class DevicePool:
    """What one model keeps between calls."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._fingerprint = 0
        self.idle: OrderedDict[PoolKey, PooledBatch] = OrderedDict()
        self._refused: set[str] = set()
        """Modes that were tried in vain."""

    def acquire(self, runner: ModelRunner, mode: str, padding: list[int], capacity: int) -> PooledBatch | None:
        """An empty batch for a call over ``len(padding)`` rows; None where it must be decoded in dynamic shapes."""
        model, reason = runner.model, _obstacle(runner)
        key = PoolKey(mode, len(padding), model.dtype, torch.is_inference_mode_enabled())
        with self._lock:
            self._forget_if_changed(model)
            if mode in self._refused:
                return None
            if reason is not None:
                self._refused.add(mode)
                warnings.warn(f"{type(model).__name__} is decoded without static shapes: {reason}", GraphWarning, 2)
                return None
            pooled, now = self.idle.pop(key, None), self._fingerprint
        if pooled is None:
            batch = DeviceBatch(runner.plan.layout, len(padding), capacity)
            pooled = PooledBatch(key, batch, _launcher(mode, model.device), now)
        if pooled.device_batch.open(padding, capacity):
            pooled.launcher.backend.forget()
        return pooled

    def give_back(self, pooled: PooledBatch) -> None:
        """Keep the batch for the next call of its kind."""
        device = pooled.device_batch.device
        if device.type == "cuda":
            torch.cuda.current_stream(device).synchronize()  # the next call may come on another stream
        with self._lock:
            if self._fingerprint != pooled.fingerprint:
                return  # the model has changed since
            if pooled.key.mode == "graphs" and not pooled.launcher.backend.captures:
                self._refused.add(pooled.key.mode)  # dynamic shapes are faster than static ones that are not captured
                return
            self.idle[pooled.key] = pooled
            self.idle.move_to_end(pooled.key)
            while len(self.idle) > MAX_IDLE:
                self.idle.popitem(last=False)

    def _forget_if_changed(self, model: Any) -> None:
        now = fingerprint(model)
        if now != self._fingerprint:
            self._fingerprint = now
            self.idle.clear()
            self._refused.clear()


def _launcher(mode: str, device: torch.device) -> Launcher:
    call = compiled_call() if mode == "inductor" else call_model
    if mode == "static" or device.type != "cuda":
        return Launcher(Eager(rehearses=mode == "inductor"), call)
    return Launcher(Graphs(device), call)


def _obstacle(runner: ModelRunner) -> str | None:
    """Why a model cannot be decoded in static shapes, if so."""
    devices = {
        part.device for part in chain(runner.model.parameters(), runner.plan.layout.keys, runner.plan.layout.values)
    }
    if len(devices) > 1:
        return f"it lies on {len(devices)} devices"
    if torch.is_autocast_enabled(runner.model.device.type):
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
            *((name, _plain(value)) for name, value in list(vars(module).items()) if name not in _OF_ANY_MODULE),
        )
        for module in model.modules()
    )
    attention = model.config.get_text_config()._attn_implementation
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
