"""Real architectures at toy size, float64: every drafter and verifier against plain decoding and ``model.generate``."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import racer
from racer import DecodeConfig
from racer.core.support import probe
from racer.testing import HostileDrafter
from support.seeds import as_row
from support.tiny_models import BUILD, SMALL, VOCAB, alone, batch, tiny

ALL = list(BUILD)
DRAFTERS = ["racer-paper", "retrieval", "logits", "recycling", "prompt-lookup"]
CORE = ["llama", "qwen3", "gpt2"]


def pairs(drafters: list[str], everywhere: str) -> list[Any]:
    """Every drafter on every architecture; by default every drafter on one, and one everywhere."""
    return [
        pytest.param(name, drafter, marks=[] if name == CORE[0] or drafter == everywhere else pytest.mark.slow)
        for name in CORE
        for drafter in drafters
    ]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ALL)
def test_hostile_trees_on_every_architecture(name: str, attention: str) -> None:
    model, how = tiny(name, attention), {"max_new_tokens": 30, "do_sample": False}
    assert probe(model).plan is not None, probe(model).reason
    config = DecodeConfig(drafter=HostileDrafter(5, VOCAB), budget=14, prefill_chunk=4)
    # in float64 transformers' eager attention makes NaN of left padding (the mask's minimum is -inf as float32)
    for inputs in [alone(0), alone(2)] if attention == "eager" else [batch()]:
        out = racer.generate(model, config=config, **inputs, **how, return_dict_in_generate=True)
        assert torch.equal(out.sequences, model.generate(**inputs, **how))
        assert out.racer_stats.steps


@pytest.mark.parametrize(("name", "drafter"), pairs([*DRAFTERS, "racer", "none"], "racer"))
def test_greedy_is_model_generate(name: str, drafter: str) -> None:
    model, how = tiny(name), {"max_new_tokens": 40, "do_sample": False}
    config = DecodeConfig(drafter=drafter, budget=24)
    for inputs in (batch(), alone(1)):
        assert torch.equal(racer.generate(model, config=config, **inputs, **how), model.generate(**inputs, **how))


@pytest.mark.parametrize(("name", "drafter"), pairs(DRAFTERS, "racer-paper"))
def test_sampling_is_plain_sampling_and_rows_are_their_solo_runs(name: str, drafter: str) -> None:
    model, how = tiny(name), {"max_new_tokens": 30, "do_sample": True, "temperature": 0.8, "top_p": 0.9, "top_k": 12}
    together = racer.generate(model, config=DecodeConfig(drafter=drafter, seed=11, budget=24), **batch(), **how)
    plain = racer.generate(model, config=DecodeConfig(drafter="none", seed=11), **batch(), **how)
    assert torch.equal(together, plain)
    for row in range(3):
        config = as_row(DecodeConfig(drafter=drafter, seed=11, budget=24), row)
        assert torch.equal(racer.generate(model, config=config, **alone(row), **how)[0, -30:], together[row, -30:])


@pytest.mark.parametrize("name", CORE)
def test_typical_acceptance_ends_and_keeps_within_its_length(name: str) -> None:
    model = tiny(name)
    config = DecodeConfig(drafter="racer-paper", verifier="typical", budget=24)
    for do_sample in (False, True):
        out = racer.generate(model, config=config, **batch(), max_new_tokens=20, do_sample=do_sample)
        assert out.shape == (3, 31)


@pytest.mark.parametrize("name", CORE)
def test_processors_through_generate(name: str) -> None:
    model = tiny(name)
    how = {
        "max_new_tokens": 25,
        "do_sample": False,
        "repetition_penalty": 1.3,
        "no_repeat_ngram_size": 3,
        "min_new_tokens": 5,
    }
    config = DecodeConfig(drafter="racer-paper", budget=16)
    assert torch.equal(racer.generate(model, config=config, **batch(), **how), model.generate(**batch(), **how))


def test_learned_positions_reach_their_very_end() -> None:
    """Trees near the end of GPT-2's position table must not overrun it."""
    model, inputs = tiny("gpt2"), alone(2)
    how = {"max_new_tokens": 64 - 11, "do_sample": False}
    config = DecodeConfig(drafter=HostileDrafter(2, VOCAB), budget=14)
    assert torch.equal(racer.generate(model, config=config, **inputs, **how), model.generate(**inputs, **how))


@pytest.mark.gpu
@pytest.mark.parametrize("name", CORE)
def test_the_same_code_on_a_gpu(name: str) -> None:
    torch.manual_seed(7)
    model = BUILD[name]().double().eval().cuda()
    inputs, how = {key: value.cuda() for key, value in batch().items()}, {"max_new_tokens": 40}
    for drafter in ("racer-paper", "none"):
        config = DecodeConfig(drafter=drafter, seed=3, budget=24)
        greedy = racer.generate(model, config=config, **inputs, **how, do_sample=False)
        assert torch.equal(greedy, model.generate(**inputs, **how, do_sample=False))
        sampled = racer.generate(model, config=config, **inputs, **how, do_sample=True)
        plain = racer.generate(model, config=DecodeConfig(drafter="none", seed=3), **inputs, **how, do_sample=True)
        assert torch.equal(sampled, plain)


def test_a_head_larger_than_the_embedding_drafts_nothing_that_cannot_be_read() -> None:
    torch.manual_seed(3)
    model = LlamaForCausalLM(LlamaConfig(**SMALL)).double().eval()
    model.lm_head = torch.nn.Linear(32, VOCAB + 3, bias=False).double()
    with torch.no_grad():
        model.lm_head.weight[VOCAB:] = -model.lm_head.weight[:3] * 0.9  # now and then second best
    for drafter in ("logits", HostileDrafter(1, VOCAB)):
        config = DecodeConfig(drafter=drafter, budget=24)
        try:
            plain = model.generate(**alone(2), max_new_tokens=40, do_sample=False)
        except IndexError:
            pytest.skip("this seed's plain text leaves the embedding by itself")
        assert torch.equal(racer.generate(model, config=config, **alone(2), max_new_tokens=40, do_sample=False), plain)
