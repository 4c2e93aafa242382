"""All that is kept for a model is in one place, and can be given back."""

from __future__ import annotations

import copy
import gc
import weakref
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import racer
from racer import DecodeConfig, Decoder
from racer.core.model_state import StatePart, _states, find_state, state_of
from racer.core.packed_weights import packed_model
from racer.engine.decoder import step_cost
from racer.engine.kept_strategies import StrategySets
from racer.engine.static.pool import DevicePool
from racer.testing import toy_model
from support.tiny_models import SMALL

HOW: dict[str, Any] = {"max_new_tokens": 20, "do_sample": False}
IDS = torch.tensor([[1, 2, 3]])


class Counted(StatePart):
    released = 0

    def release(self, model: Any) -> None:
        type(self).released += 1


def test_parts_are_made_once_and_released_once() -> None:
    model = toy_model()
    assert find_state(model).find(Counted) is None
    part = state_of(model).part(Counted)
    assert state_of(model).part(Counted) is part is find_state(model).find(Counted)
    racer.release(model)
    racer.release(model)
    assert Counted.released == 1
    assert find_state(model).find(Counted) is None


def test_release_gives_all_memory_back_and_undoes_attach() -> None:
    model = LlamaForCausalLM(LlamaConfig(**SMALL)).eval()
    plain = model.generate(IDS, **HOW)
    attached = racer.attach(model, DecodeConfig(drafter="racer-paper", budget=8, compile="static"))
    assert torch.equal(attached.generate(IDS, **HOW), plain)
    packed, batch = packed_model(model), next(iter(state_of(model).part(DevicePool).idle.values()))
    learned = state_of(model).part(StrategySets)
    assert packed is not None
    alive = [weakref.ref(part) for part in (packed, batch, learned)]
    del packed, batch, learned
    racer.release(model)
    gc.collect()
    assert [part() for part in alive] == [None] * 3
    assert "generate" not in vars(model)
    assert model not in _states
    assert not any("forward" in vars(module) for module in model.modules())
    assert torch.equal(model.generate(IDS, **HOW), plain)
    assert torch.equal(racer.generate(model, input_ids=IDS, **HOW), plain), "the next call starts anew"


def test_a_call_that_runs_goes_on_after_a_release() -> None:
    model = toy_model()
    plain = racer.generate(model, input_ids=IDS, config=DecodeConfig(drafter="none"), **HOW)

    class Releases:
        @racer.hookimpl
        def racer_step(self, stats: Any) -> None:
            racer.release(model)

    for compile in ("off", "static"):
        config = DecodeConfig(drafter="racer-paper", budget=6, compile=compile, plugins=[Releases()])
        assert torch.equal(Decoder(model, config).generate(input_ids=IDS, **HOW), plain)
        assert find_state(model).find(DevicePool) is None, "what was released does not come back by itself"


def test_what_is_kept_goes_with_the_model() -> None:
    model = toy_model()
    racer.generate(model, input_ids=IDS, **HOW)
    assert step_cost(model, 1, "off", False, 3).sizes
    alive = weakref.ref(model)
    del model
    gc.collect()
    assert alive() is None


def test_what_torch_compile_wraps_is_released() -> None:
    model = toy_model()
    racer.attach(model)
    racer.release(torch.compile(model))
    assert "generate" not in vars(model)


def test_a_compiled_model_is_attached_and_detached_as_what_it_wraps() -> None:
    model = toy_model()
    for undo in (racer.detach, racer.release):
        racer.attach(torch.compile(model))
        assert "generate" in vars(model)
        undo(torch.compile(model))
        assert "generate" not in vars(model)


def test_a_copy_of_an_attached_model_is_detached_too() -> None:
    copied = copy.deepcopy(racer.attach(toy_model()))
    assert "generate" in vars(copied)
    assert "generate" not in vars(racer.detach(copied))


def test_a_generate_that_is_not_ours_stays() -> None:
    model = toy_model()
    racer.detach(racer.attach(model))
    model.generate = mine = object()
    racer.detach(model)
    racer.release(model)
    assert model.generate is mine


def test_what_drafters_learned_is_freed_at_once() -> None:
    model = toy_model()
    racer.generate(model, input_ids=IDS, config=DecodeConfig(drafter="logits"), **HOW)
    [strategies] = state_of(model).part(StrategySets)._kept.values()
    alive = weakref.ref(strategies.drafter)
    del strategies
    gc.collect()
    gc.disable()
    try:
        racer.release(model)
        assert alive() is None
    finally:
        gc.enable()
