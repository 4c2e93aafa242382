"""Captures on a GPU: the same tokens, a bounded pool, and one synchronisation a step."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import racer
from racer import DecodeConfig, Decoder, Recycling
from racer.core.model_runner import ModelRunner
from racer.core.model_state import release, state_of
from racer.core.support import probe
from racer.engine.static.cuda_graphs import GraphWarning, Key
from racer.engine.static.pool import DevicePool
from racer.testing import HostileDrafter, decode, decode_plainly, toy_model
from racer.testing.toy import ToyConfig
from support.pretender import NeedsHost, idle_batches, recycled
from support.tiny_models import BUILD, batch
from support.tiny_models import VOCAB as TINY_VOCAB
from support.toy import VOCAB


def cuda(name: str) -> tuple[Any, dict[str, Tensor]]:
    torch.manual_seed(7)
    model = BUILD[name]().double().eval().cuda()
    return model, {key: value.cuda() for key, value in batch().items()}


def graphs(model: Any) -> Any:
    """The one kept batch's graphs."""
    (pooled,) = idle_batches(model)
    return pooled.launcher.backend


@pytest.mark.gpu
@pytest.mark.parametrize("do_sample", [False, True])
@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2", "gemma3", "mistral-sliding"])
def test_graphs_decode_what_single_operations_decode(name: str, do_sample: bool) -> None:
    model, inputs = cuda(name)
    how: dict[str, Any] = {"max_new_tokens": 40, "do_sample": do_sample}
    if do_sample:
        how |= {"temperature": 0.8, "top_p": 0.9, "top_k": 12}
    for drafter in ("racer", "racer-paper", "recycling", "none", HostileDrafter(5, TINY_VOCAB)):
        outputs = [
            racer.generate(
                model, config=DecodeConfig(drafter=drafter, budget=14, seed=3, compile=compile), **inputs, **how
            )
            for compile in ("graphs", "graphs", "static", "off")
        ]
        assert all(torch.equal(outputs[0], other) for other in outputs)
    kept = {pooled.launcher.backend.captures for pooled in idle_batches(model) if pooled.key.mode == "graphs"}
    assert kept == {True}, "nothing fell back"


@pytest.mark.gpu
def test_processors_that_read_prefixes_leave_the_forward_in_the_graph() -> None:
    model, inputs = cuda("llama")
    how = {"max_new_tokens": 25, "do_sample": False, "repetition_penalty": 1.3, "no_repeat_ngram_size": 3}
    config = DecodeConfig(drafter="racer-paper", budget=16, compile="graphs")
    assert torch.equal(racer.generate(model, config=config, **inputs, **how), model.generate(**inputs, **how))
    assert all(key.kind[0] is None for key in graphs(model)._recordings)


@pytest.mark.gpu
def test_a_drafter_on_the_device_is_captured_and_drafts_what_it_drafts_elsewhere(told: list[int]) -> None:
    model = toy_model(VOCAB).cuda()
    drafter = Recycling(4)
    got, stats = recycled(model, drafter, "graphs", new=200)
    assert told == [5]
    plain, outside = recycled(model, Recycling(4), "off", new=200)
    assert got == plain
    assert all(key.kind[2] is not None for key in graphs(model)._recordings)
    # of equal tokens in one tree, any may be learned from last
    assert stats.mean_accepted_tokens == pytest.approx(outside.mean_accepted_tokens, rel=0.2)


@pytest.mark.gpu
def test_storage_that_grows_is_captured_anew() -> None:
    model = toy_model(VOCAB).cuda()
    config = DecodeConfig(drafter="racer-paper", budget=16, compile="graphs")
    got, _ = decode(Decoder(model, config), [[1, 2, 3]], 1500)
    assert got == decode(Decoder(model, DecodeConfig(drafter="none", compile="off")), [[1, 2, 3]], 1500)[0]
    assert graphs(model).captures
    assert all(key.slots > 1280 for key in graphs(model)._recordings), "those before the move are gone"


@pytest.mark.gpu
def test_a_failed_capture_leaves_the_device_in_order() -> None:
    """The check before the capture is passed over, so that the capture itself fails."""
    from racer.engine.static.cuda_graphs import Graphs

    class Unchecked(Graphs):
        def prepare(self, key: Key, body: Callable[[], Any], check: bool) -> None:
            super().prepare(key, body, check=False)

    model = NeedsHost(ToyConfig(vocab_size=VOCAB)).eval().cuda()
    plan = probe(model).plan
    assert plan is not None
    pool = state_of(model).part(DevicePool)
    pooled = pool.acquire(ModelRunner(model, plan), "graphs", [0], 100)
    assert pooled is not None
    pooled.launcher.backend = Unchecked(torch.device("cuda", 0))
    pool.give_back(pooled)
    stream = torch.cuda.current_stream()
    config = DecodeConfig(drafter="racer-paper", budget=8, compile="graphs")
    with pytest.warns(GraphWarning, match="cannot be captured"):
        got, _ = decode(Decoder(model, config), [[1, 2]], 30)
    assert got == decode_plainly(toy_model(VOCAB), [[1, 2]], 30)
    assert torch.cuda.current_stream() == stream
    assert torch.rand(3, device="cuda").isfinite().all(), "the random generator still works"
    torch.cuda.empty_cache()  # refused while torch believes that a capture is going on
    another = toy_model(VOCAB).cuda()
    config = DecodeConfig(drafter="logits", budget=8, compile="graphs")
    assert decode(Decoder(another, config), [[1, 2]], 30)[0] == got
    assert graphs(another)._recordings, "others are captured all the same"


@pytest.mark.gpu
def test_the_pool_is_bounded() -> None:
    """Graphs of many attention lengths share their memory: four times as many need hardly more."""
    model, _ = cuda("llama")
    sizes = []
    for new in (200, 110):  # the longer text first; the second call is the same graphs again
        prompts = [[3, 4, 5, 6]]
        config = DecodeConfig(drafter=HostileDrafter(1, TINY_VOCAB), budget=14, compile="graphs")
        decode(Decoder(model, config), prompts, new // 2)
        torch.cuda.synchronize()
        sizes.append(torch.cuda.memory_reserved())
    assert graphs(model)._recordings
    assert sizes[1] == sizes[0], "a second call captures and allocates nothing"
    release(model)
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() < sizes[0]


@pytest.mark.gpu
def test_one_synchronisation_a_step() -> None:
    model = toy_model(VOCAB).cuda()
    decoder = Decoder(model, DecodeConfig(drafter="none", compile="graphs"))
    decode(decoder, [[1, 2]], 20)
    before = torch.cuda.get_sync_debug_mode()
    counted: list[Any] = []
    try:
        torch.cuda.set_sync_debug_mode("warn")
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            _, stats = decode(decoder, [[1, 2]], 100)
        counted = [entry for entry in said if "synchroniz" in str(entry.message)]
    finally:
        torch.cuda.set_sync_debug_mode(before)
    # the mode warns of every wait for a stream, and of copies to and from pageable memory: prefill has a few
    assert stats.steps <= len(counted) < stats.steps + 20


@pytest.mark.gpu
def test_a_pooled_batch_outlives_inference_mode() -> None:
    model, inputs = cuda("llama")
    how = {"max_new_tokens": 20, "do_sample": False}
    config = DecodeConfig(compile="graphs")
    with torch.inference_mode():
        inside = racer.generate(model, config=config, **inputs, **how)
    with warnings.catch_warnings():
        warnings.simplefilter("error", GraphWarning)  # nothing is left outside the graph
        assert torch.equal(racer.generate(model, config=config, **inputs, **how), inside)
