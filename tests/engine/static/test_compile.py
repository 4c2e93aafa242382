"""``compile="inductor"``: the forward pass through torch.compile."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

import racer
from racer import DecodeConfig, Decoder
from racer.core.model_runner import ModelRunner
from racer.core.model_state import release, state_of
from racer.core.stand_in import call_model
from racer.core.support import probe
from racer.engine.static.cuda_graphs import GraphWarning
from racer.engine.static.pool import DevicePool
from racer.testing import decode, decode_plainly, toy_model
from support.pretender import idle_batches
from support.tiny_models import batch, tiny
from support.toy import VOCAB


@pytest.mark.slow
def test_the_compiled_forward_gives_the_same_tokens() -> None:
    model, how = tiny("llama"), {"max_new_tokens": 24, "do_sample": False}
    config = DecodeConfig(drafter="prompt-lookup", budget=4, compile="inductor")
    release(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error", GraphWarning)
        got = racer.generate(model, config=config, **batch(), **how)
    assert torch.equal(got, model.generate(**batch(), **how))
    (pooled,) = idle_batches(model)
    assert pooled.launcher.compiled
    assert torch.equal(racer.generate(model, config=config, **batch(), **how), got)
    release(model)


def test_a_model_that_cannot_be_compiled_is_run_as_it_is() -> None:
    model = toy_model(VOCAB)
    plan = probe(model).plan
    assert plan is not None
    pool = state_of(model).part(DevicePool)
    pooled = pool.acquire(ModelRunner(model, plan), "inductor", [0], 100)
    assert pooled is not None

    def no_compiler(model: Any, **inputs: Any) -> Any:
        raise RuntimeError("no C++ compiler")

    pooled.launcher.call = no_compiler
    pool.give_back(pooled)
    decoder = Decoder(model, DecodeConfig(drafter="racer-paper", budget=6, compile="inductor"))
    with pytest.warns(GraphWarning, match="ToyLM is not compiled: RuntimeError: no C\\+\\+ compiler"):
        got, _ = decode(decoder, [[1, 2]], 20)
    assert got == decode_plainly(model, [[1, 2]], 20)
    assert pooled.launcher.call is call_model
