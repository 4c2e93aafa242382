"""Clocks around the parts of a decoding step."""

from __future__ import annotations

import functools
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

import racer
from racer.bench.meters import now
from racer.core.kv_cache import TreeCache
from racer.core.model_runner import ModelRunner
from racer.engine import executor
from racer.engine.static import executor as static_executor
from racer.engine.static.device_batch import DeviceBatch
from racer.engine.static.executor import StaticExecutor
from racer.step.verdict import Verdict

PARTS = ("draft", "mask", "forward", "verify", "top-k", "sync", "commit", "observe", "host")
"""``mask`` is all that :meth:`racer.core.model_runner.ModelRunner.forward` does but the model's forward, and in static
shapes all else that is captured with it; ``host`` is what no other has."""


class Clocks:
    """Times the parts of every step, each without the parts inside it."""

    def __init__(self, device: torch.device) -> None:
        self.steps: list[dict[str, float]] = []
        self._device = device
        self._open: list[list[Any]] = []  # part, start, seconds spent in the parts inside
        self._times: dict[str, float] = defaultdict(float)

    def enter(self, part: str) -> None:
        self._open.append([part, self._now(), 0.0])

    def leave(self) -> None:
        part, start, inside = self._open.pop()
        spent = self._now() - start
        self._times[part] += (spent - inside) * 1e3
        if self._open:
            self._open[-1][2] += spent
        else:
            if "forward" not in self._times:  # a captured forward is replayed as a whole
                self._times["forward"] = self._times.pop("mask")
            self.steps.append(dict(self._times))
            self._times.clear()

    def _now(self) -> float:
        capturing = self._device.type == "cuda" and torch.cuda.is_current_stream_capturing()
        return time.perf_counter() if capturing else now(self._device)

    def around(self, stack: ExitStack, owner: Any, name: str, part: str) -> None:
        """Time ``owner.name`` as ``part``, while a step runs, until ``stack`` closes."""
        call = getattr(owner, name)

        @functools.wraps(call)
        def timed(*args: Any, **kwargs: Any) -> Any:
            if not self._open and part != "host":  # the prefill is no step
                return call(*args, **kwargs)
            self.enter(part)
            try:
                return call(*args, **kwargs)
            finally:
                self.leave()

        stack.callback(setattr, owner, name, call)
        setattr(owner, name, timed)


@contextmanager
def clocks_on(decoder: racer.Decoder, clocks: Clocks) -> Iterator[None]:
    """Clocks around everything that :meth:`racer.Decoder.step` does; what remains of it is ``host``."""
    with ExitStack() as stack:
        clocks.around(stack, decoder, "step", "host")
        clocks.around(stack, decoder.strategies, "draft", "draft")
        clocks.around(stack, ModelRunner, "forward", "mask")
        clocks.around(stack, StaticExecutor, "_prepare", "mask")
        clocks.around(stack, StaticExecutor, "_launch", "mask")
        clocks.around(stack, type(decoder.model), "forward", "forward")  # hooks would have it decoded plainly
        clocks.around(stack, decoder.strategies, "verify", "verify")
        clocks.around(stack, executor, "top_tokens", "top-k")
        clocks.around(stack, static_executor, "top_tokens", "top-k")
        clocks.around(stack, Verdict, "to_host", "sync")
        clocks.around(stack, DeviceBatch, "fetch", "sync")
        clocks.around(stack, TreeCache, "commit", "commit")
        clocks.around(stack, decoder.strategies, "step_over", "observe")
        yield
