"""Real architectures at toy size, float64: every drafter and verifier against plain decoding and ``model.generate``."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from transformers import (
    FalconConfig,
    FalconForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

import racer
from racer import DecodeConfig, Decoder
from racer.core.support import probe
from racer.hf.generate import PlainDecodingWarning
from racer.testing import HostileDrafter, ToyLM, decode, decode_plainly, toy_model
from racer.testing.toy import ToyConfig

VOCAB = 37
SMALL: dict[str, Any] = {
    "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": None,
}  # fmt: skip
BUILD: dict[str, Any] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SMALL)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SMALL, head_dim=8)),
    "qwen2-sliding": lambda: Qwen2ForCausalLM(
        Qwen2Config(**SMALL, use_sliding_window=True, sliding_window=6, max_window_layers=1)
    ),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=64, pad_token_id=0, eos_token_id=None)
    ),
    "mistral-sliding": lambda: MistralForCausalLM(MistralConfig(**SMALL, sliding_window=7)),
    "gemma3": lambda: Gemma3ForCausalLM(
        Gemma3TextConfig(**SMALL, head_dim=8, sliding_window=5, layer_types=["sliding_attention", "full_attention"])
    ),
    "phi3": lambda: Phi3ForCausalLM(Phi3Config(**SMALL)),
    "mixtral": lambda: MixtralForCausalLM(MixtralConfig(**SMALL, num_local_experts=3, num_experts_per_tok=2)),
}
ALL = list(BUILD)
DRAFTERS = ["racer-paper", "retrieval", "logits", "recycling", "prompt-lookup"]
CORE = ["llama", "qwen3", "gpt2"]


@cache
def tiny(name: str, attention: str = "sdpa") -> Any:
    torch.manual_seed(7)
    model = BUILD[name]().double().eval()
    model.set_attn_implementation(attention)
    if name == "mixtral":
        model.set_experts_implementation("eager")  # the default has no float64 kernel
    for parameter in model.parameters():
        parameter.data.mul_(4)  # random weights at their usual scale barely attend; these do
    return model


def batch() -> dict[str, torch.Tensor]:
    """Three prompts of 4, 9 and 11 tokens, left-padded."""
    generator = torch.Generator().manual_seed(3)
    ids, mask = torch.zeros(3, 11, dtype=torch.long), torch.zeros(3, 11, dtype=torch.long)
    for row, length in enumerate((4, 9, 11)):
        ids[row, -length:] = torch.randint(2, VOCAB, (length,), generator=generator)
        mask[row, -length:] = 1
    return {"input_ids": ids, "attention_mask": mask}


def alone(row: int) -> dict[str, torch.Tensor]:
    inputs = batch()
    keep = inputs["attention_mask"][row].bool()
    return {"input_ids": inputs["input_ids"][row, keep][None]}


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


@pytest.mark.parametrize("drafter", [*DRAFTERS, "racer", "none"])
@pytest.mark.parametrize("name", CORE)
def test_greedy_is_model_generate(name: str, drafter: str) -> None:
    model, how = tiny(name), {"max_new_tokens": 40, "do_sample": False}
    config = DecodeConfig(drafter=drafter, budget=24)
    for inputs in (batch(), alone(1)):
        assert torch.equal(racer.generate(model, config=config, **inputs, **how), model.generate(**inputs, **how))


@pytest.mark.parametrize("drafter", DRAFTERS)
@pytest.mark.parametrize("name", CORE)
def test_sampling_is_plain_sampling_and_rows_are_their_solo_runs(name: str, drafter: str) -> None:
    model, how = tiny(name), {"max_new_tokens": 30, "do_sample": True, "temperature": 0.8, "top_p": 0.9, "top_k": 12}
    together = racer.generate(model, config=DecodeConfig(drafter=drafter, seed=11, budget=24), **batch(), **how)
    plain = racer.generate(model, config=DecodeConfig(drafter="none", seed=11), **batch(), **how)
    assert torch.equal(together, plain)
    for row in range(3):
        config = DecodeConfig(drafter=drafter, seed=11 + row, budget=24)
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


def test_models_that_cannot_take_trees_are_decoded_plainly() -> None:
    """Falcon's ALiBi ignores position ids: the trial tree shows it, nobody has to know."""
    torch.manual_seed(1)
    config = FalconConfig(
        vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, alibi=True, pad_token_id=0,
        eos_token_id=None,
    )  # fmt: skip
    model = FalconForCausalLM(config).double().eval()
    with pytest.warns(UserWarning, match="decoded plainly"):
        got = racer.generate(model, **alone(1), max_new_tokens=12, do_sample=False)
    assert torch.equal(got, model.generate(**alone(1), max_new_tokens=12, do_sample=False))
    with pytest.raises(racer.RacerError, match="cannot be verified with trees"):
        racer.Decoder(model)


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


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_rotary_embeddings_that_depend_on_length_are_decoded_plainly(kind: str) -> None:
    rope = {"rope_type": kind, "rope_theta": 10000.0, "factor": 2.0, "original_max_position_embeddings": 32}
    if kind == "longrope":
        rope |= {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    model = LlamaForCausalLM(LlamaConfig(**SMALL, rope_parameters=rope)).double().eval()
    with pytest.warns(PlainDecodingWarning, match=f"'{kind}' rotary embedding"):
        out = racer.generate(model, **alone(2), max_new_tokens=40, do_sample=False, return_dict_in_generate=True)
    assert torch.equal(out.sequences, model.generate(**alone(2), max_new_tokens=40, do_sample=False))
    assert out.racer_stats is None


def test_stateful_models_are_decoded_plainly() -> None:
    torch.manual_seed(2)
    model = MambaForCausalLM(
        MambaConfig(
            vocab_size=VOCAB, hidden_size=16, num_hidden_layers=2, state_size=4, pad_token_id=0, eos_token_id=None
        )
    ).eval()
    with pytest.warns(PlainDecodingWarning, match="decoded plainly"):
        got = racer.generate(model, **alone(1), max_new_tokens=12, do_sample=False)
    assert torch.equal(got, model.generate(**alone(1), max_new_tokens=12, do_sample=False))


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


def test_a_resized_model_is_examined_anew() -> None:
    torch.manual_seed(4)
    model = LlamaForCausalLM(LlamaConfig(**SMALL)).double().eval()
    assert probe(model).vocab_size == VOCAB
    model.resize_token_embeddings(VOCAB + 5, mean_resizing=False)
    assert probe(model).vocab_size == VOCAB + 5


class OldNamed(ToyLM):
    """As models of transformers before 5.24, and others' after it, call the cache."""

    def forward(self, input_ids, attention_mask=None, position_ids=None, past_key_values=None, **others):  # type: ignore[no-untyped-def]
        return super().forward(input_ids, attention_mask, position_ids, past_key_values, **others)


class NewNamed(ToyLM):
    """As models of transformers from 5.24 on call it."""

    def forward(self, input_ids, attention_mask=None, position_ids=None, cache=None, **others):  # type: ignore[no-untyped-def]
        return super().forward(input_ids, attention_mask, position_ids, cache, **others)


@pytest.mark.parametrize("kind", [OldNamed, NewNamed])
def test_the_cache_is_given_by_the_name_that_the_model_knows(kind: type[ToyLM]) -> None:
    model = kind(ToyConfig(vocab_size=9)).eval()
    tokens, _ = decode(Decoder(model, DecodeConfig(drafter="racer-paper", budget=12)), [[1, 2, 3]], 20)
    assert tokens == decode_plainly(toy_model(9), [[1, 2, 3]], 20)
