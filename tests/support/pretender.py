"""A machine that pretends to capture graphs, and how a toy model is decoded on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import racer
from racer import DecodeConfig, Decoder
from racer.core.model_runner import ModelRunner
from racer.core.support import probe
from racer.engine.static.cuda_graphs import CaptureCheck, Eager, Key
from racer.engine.static.pool import borrow, release
from racer.testing import ToyLM, decode


class Pretender(Eager):
    """Stands where a GPU's graphs would, checks what it is given as they do, and runs it step by step."""

    captures = True

    def __init__(self) -> None:
        super().__init__(rehearses=True)
        self.kinds: list[Key] = []

    def prepare(self, key: Key, body: Callable[[], Any], check: bool) -> None:
        assert check
        self.kinds.append(key)
        with CaptureCheck():
            super().prepare(key, body, check)


def pretend(model: Any, rows: int) -> Pretender:
    """Let the next call of ``model`` with ``rows`` rows find a stage with a machine that pretends to capture."""
    release(model)
    plan = probe(model).plan
    assert plan is not None
    core = ModelRunner(model, plan)
    lease = borrow(core, "static", [0] * rows, 100)
    assert lease is not None
    machine = Pretender()
    lease.runner.machine = machine
    racer.engine.static.pool.give_back(core, lease)
    return machine


class NeedsHost(ToyLM):
    """Reads a value on the host in the middle of its forward."""

    def forward(self, input_ids, attention_mask=None, position_ids=None, cache=None, **others):  # type: ignore[no-untyped-def]
        output = super().forward(input_ids, attention_mask, position_ids, cache, **others)
        assert output.logits.sum().item() != 0.5
        return output


PROMPTS = [[1, 2, 3, 1, 2], [3]]


def recycled(
    model: Any, drafter: Any, compile: str, new: int = 40, budget: Any = 13, **how: Any
) -> tuple[list[list[int]], Any]:
    config = DecodeConfig(drafter=drafter, budget=budget, compile=compile, **how)
    return decode(Decoder(model, config), PROMPTS, new)
