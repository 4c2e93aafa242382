"""A model is tried beyond every window that a call reaches, at the price of a few tokens."""

from __future__ import annotations

import copy
from typing import Any

import attrs
import pytest
import torch
from transformers import (
    GPTNeoConfig,
    GPTNeoForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
)

import racer
from racer import DecodeConfig, Decoder
from racer.core import chain_trial, own_loop, windows
from racer.core import trial as trials
from racer.core.logit_error import fault_of
from racer.core.masks import MaskPlan
from racer.core.support import probe
from racer.core.windows import windows_of
from racer.errors import UnsupportedGeneration
from racer.testing import HostileDrafter, decode
from support.tiny_models import SMALL, VOCAB, tiny

HOW: dict[str, Any] = {"do_sample": False, "pad_token_id": 0}
CONFIG = DecodeConfig(drafter=HostileDrafter(3, VOCAB), budget=9, prefill_chunk=4)


def neo(window: int, dtype: torch.dtype = torch.float64) -> Any:
    """GPT-Neo, every second layer of which masks by cache slot, whatever the mask says."""
    torch.manual_seed(2)
    config = GPTNeoConfig(
        vocab_size=VOCAB, hidden_size=32, num_layers=2, num_heads=4, max_position_embeddings=512, window_size=window,
        attention_types=[[["global", "local"], 1]], bos_token_id=1, eos_token_id=None,
    )  # fmt: skip
    model = GPTNeoForCausalLM(config).to(dtype).eval()
    for parameter in model.parameters():
        parameter.data.mul_(4)
    return model


def mistral(window: int) -> Any:
    torch.manual_seed(2)
    return MistralForCausalLM(MistralConfig(**SMALL, sliding_window=window)).double().eval()


def prompt(length: int) -> torch.Tensor:
    return torch.randint(2, VOCAB, (1, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("window", [18, 256])
def test_text_beyond_a_window_that_masks_by_slot_is_decoded_by_chains(window: int) -> None:
    model = racer.attach(neo(window), CONFIG)
    inputs = prompt(window - 8)
    plain = type(model).generate(model, inputs, **HOW, max_new_tokens=20)
    out = model.generate(inputs, **HOW, max_new_tokens=20, return_dict_in_generate=True)
    assert probe(model, window + 12).way == "chain"
    assert out.racer_stats.steps
    assert torch.equal(out.sequences, plain)


def test_text_that_ends_before_a_window_is_decoded_with_trees_that_end_there_too() -> None:
    model, inputs = neo(18), prompt(7)
    plain = model.generate(inputs, **HOW, max_new_tokens=11)
    out = racer.generate(model, config=CONFIG, input_ids=inputs, **HOW, max_new_tokens=11, return_dict_in_generate=True)
    assert torch.equal(out.sequences, plain)
    assert 1 < max(out.racer_stats.nodes) <= 9


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("window", [64, 300])
def test_a_key_more_or_less_is_noticed_in_every_dtype(window: int, dtype: torch.dtype) -> None:
    support = probe(neo(window, dtype), 400)
    assert support.plan is None
    assert f"beyond its window of {window}" in support.tree_reason


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["mistral-sliding", "gemma3", "qwen2-sliding"])
def test_windows_that_can_be_masked_are_no_obstacle(name: str, dtype: torch.dtype) -> None:
    model = copy.deepcopy(tiny(name)).to(dtype)
    support = probe(model, 100)
    assert support.plan is not None, support.reason
    assert not support.padding_reason
    assert support.plan.tried is None


def rounded_more(monkeypatch: pytest.MonkeyPatch, model: Any, share: float) -> None:
    """transformers' logits of this model differ from call to call, as those of large ones in bf16 do."""
    generator, own = torch.Generator().manual_seed(0), own_loop.own_logits

    def noisy(called: Any, *arguments: Any, **named: Any) -> Any:
        run = own(called, *arguments, **named)
        if called is not model:
            return run
        noise = torch.randn(run.logits.shape, generator=generator) * run.logits.float().std(-1, keepdim=True)
        return attrs.evolve(run, logits=run.logits + share * noise)

    for trial in (windows, trials, chain_trial):
        monkeypatch.setattr(trial, "own_logits", noisy)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["mistral-sliding", "gemma3", "qwen2-sliding"])
@pytest.mark.parametrize("share", [0.14, 0.22])
def test_what_transformers_own_logits_differ_by_is_no_fault_in_a_small_dtype(
    name: str, share: float, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gemma 3 270M in bf16 was decoded by chains from 512 tokens on."""
    model = copy.deepcopy(tiny(name)).to(dtype)
    rounded_more(monkeypatch, model, share)
    support = probe(model, 100)
    if dtype is torch.float32:
        assert support.plan is None
    else:
        assert support.plan is not None, support.tree_reason
        assert not support.padding_reason


@pytest.mark.parametrize(
    ("error", "own", "forgiven"),
    [(0.15, 0.0, True), (0.3, 0.08, True), (0.3, 0.07, False), (0.41, 1.0, False), (0.3, torch.inf, False)],
)
def test_what_is_forgiven_in_bf16(error: float, own: float, forgiven: bool) -> None:
    """Logits that are no numbers prove nothing."""
    model = copy.deepcopy(tiny("llama")).to(torch.bfloat16)
    assert (fault_of(model, error, own=lambda: own) == "") == forgiven
    assert fault_of(model.float(), error, own=lambda: own)


@pytest.mark.parametrize("more", [-1, 1])
def test_a_window_that_is_off_by_one_is_a_fault_all_the_same(more: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, right = copy.deepcopy(tiny("gemma3")).to(torch.bfloat16), MaskPlan.of
    rounded_more(monkeypatch, model, 0.14)

    def off_by_one(config: Any) -> Any:
        plan = right(config)
        return attrs.evolve(plan, window=plan.window + more) if config is model.config else plan

    monkeypatch.setattr(MaskPlan, "of", off_by_one)
    assert probe(model, 100).plan is None


@pytest.mark.parametrize("window", [64, 300])
def test_nor_is_a_class_excused_that_masks_by_slot(window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = neo(window, torch.bfloat16)
    rounded_more(monkeypatch, model, 0.09)
    support = probe(model, 400)
    assert support.plan is None
    assert f"beyond its window of {window}" in support.tree_reason


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_chains_are_excused_alike(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    model = neo(64, dtype)
    rounded_more(monkeypatch, model, 0.22)
    assert probe(model, 400).way == ("chain" if dtype is torch.bfloat16 else "plain")


@pytest.mark.parametrize("window", [30, 100])
def test_a_long_window_that_can_be_masked_is_no_obstacle(window: int) -> None:
    model, inputs = mistral(window), prompt(window - 8)
    out = racer.generate(model, config=CONFIG, input_ids=inputs, **HOW, max_new_tokens=20, return_dict_in_generate=True)
    assert out.racer_stats.steps
    assert torch.equal(out.sequences, model.generate(inputs, **HOW, max_new_tokens=20))


def test_what_is_tried_is_remembered_and_said() -> None:
    model = mistral(30)
    assert probe(model).windows == (30,)
    near, far = probe(model, 30), probe(model, 31)
    assert near.plan is not None
    assert far.plan is not None
    assert (near.plan.tried, far.plan.tried) == (30, None)
    assert probe(model, 12) is near
    assert probe(model, 1000) is far
    assert near.plan.room(9, 25) == 5
    assert near.plan.room(9, 30) == 1
    assert far.plan.room(9, 30) == 9


def test_a_decoder_refuses_before_anything_has_begun() -> None:
    decoder = Decoder(neo(18), CONFIG)
    assert decode(decoder, [[1, 2, 3]], 15)
    with pytest.raises(UnsupportedGeneration, match="beyond its window of 18"):
        decode(decoder, [[1, 2, 3]], 16)


def test_windows_are_found_by_what_their_names_speak_of() -> None:
    assert windows_of(LlamaConfig(**SMALL)) == ()
    assert windows_of(MixtralConfig(**SMALL, num_local_experts=8, sliding_window=None)) == ()
    config = MixtralConfig(**SMALL, num_local_experts=8, sliding_window=12)
    config.attention = {"chunk": {"left": 40, "sizes": [50, 60]}, "dropout": 0.5}
    config.sink_tokens, config.use_window = 7, True
    assert windows_of(config) == (7, 12, 40, 50, 60)
    config.attention_window, config.attention_chunk_size, config.n_chunks = 90, 80, 70
    assert windows_of(config) == (7, 12, 40, 50, 60, 80, 90)


def test_an_altered_window_is_noticed() -> None:
    model, decoder = (m := mistral(8)), Decoder(m, CONFIG)
    before = decode(decoder, [prompt(12)[0].tolist()], 20)[0]
    model.config.sliding_window = 14
    assert probe(model).windows == (14,)
    after = decode(decoder, [prompt(12)[0].tolist()], 20)[0]
    assert after == [model.generate(prompt(12), **HOW, max_new_tokens=20)[0, 12:].tolist()]
    assert before != after


def test_llama_has_none() -> None:
    torch.manual_seed(1)
    model = LlamaForCausalLM(LlamaConfig(**SMALL)).eval()
    assert probe(model, 10**6) is probe(model)
