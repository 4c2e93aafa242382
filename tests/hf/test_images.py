"""Prompts with images: scored with the model's own preparation, decoded by trees or chains, equal to ``generate``."""

from __future__ import annotations

import copy
import warnings
from functools import cache
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import racer
from racer import DecodeConfig
from racer.core.support import probe
from racer.hf.plain import PlainDecodingWarning
from racer.step.request import Request
from racer.strategies.base import Drafter
from racer.testing.trees import HostileDrafter, ReplayDrafter
from support.image_models import IMAGE, MODELS
from support.loud_llama import loud
from support.versions import recent

VOCAB = 128
NEW = 14
GREEDY: dict[str, Any] = {"max_new_tokens": NEW, "do_sample": False}
_RECENT = recent("its processor needs torchvision, or its positions are prepared otherwise")
ALWAYS = ["gemma3", pytest.param("qwen2_5_vl", marks=_RECENT), pytest.param("smol_vlm", marks=_RECENT)]
OTHERS = sorted(MODELS.keys() - {"gemma3", "qwen2_5_vl", "smol_vlm"})
FAMILIES = [*ALWAYS, *(pytest.param(name, marks=[pytest.mark.slow, _RECENT]) for name in OTHERS)]


@cache
def case(name: str) -> tuple[Any, dict[str, Any], Tensor]:
    """A model, two prompts of different lengths with three images in all, and what ``generate`` makes of them."""
    model, inputs = MODELS[name]()
    return model, inputs, model.generate(**inputs, **GREEDY)


def decoded(name: str, inputs: dict[str, Any], drafter: Any, seed: int | None = None, **how: Any) -> Any:
    """Without a warning: it is not decoded plainly."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", PlainDecodingWarning)
        return racer.generate(
            case(name)[0], **inputs, **how, config=DecodeConfig(drafter=drafter, budget=12, seed=seed)
        )


def replay(inputs: dict[str, Any], text: Tensor) -> Drafter:
    """Right paths among wrong ones."""
    pads = (inputs["attention_mask"] == 0).sum(1).tolist()
    prompts = inputs["input_ids"].tolist()
    known = {tuple(ids[pad:]): row[pad:] for ids, row, pad in zip(prompts, text.tolist(), pads, strict=True)}

    def answer(request: Request) -> list[int]:
        return known[tuple(request.prompt)]

    return ReplayDrafter(answer, VOCAB, seed=2)


@pytest.mark.parametrize("name", FAMILIES)
def test_prompts_with_images_are_decoded_as_generate_does(name: str) -> None:
    model, inputs, plain = case(name)
    text = {part: inputs[part] for part in ("input_ids", "attention_mask")}
    blind = model.generate(**text, **GREEDY)
    assert not torch.equal(plain, blind)  # images matter
    for drafter in ("racer", HostileDrafter(3, VOCAB), replay(inputs, plain)):
        got = decoded(name, inputs, drafter, **GREEDY, return_dict_in_generate=True)
        assert torch.equal(got.sequences, plain)
    if probe(model).way == "tree":
        assert got.racer_stats.steps < NEW // 2  # whole paths were right
    assert torch.equal(decoded(name, text, "racer", **GREEDY), blind)  # nothing of the images stays


@pytest.mark.parametrize("name", FAMILIES)
def test_sampled_texts_about_images_do_not_depend_on_drafts(name: str) -> None:
    _, inputs, _ = case(name)
    how = {"max_new_tokens": NEW, "do_sample": True}
    first, *others = (
        decoded(name, inputs, drafter, seed=4, **how) for drafter in ("none", "racer-paper", HostileDrafter(3, VOCAB))
    )
    assert all(torch.equal(other, first) for other in others)


@pytest.mark.parametrize("name", ALWAYS)
def test_a_row_that_ends_leaves_the_others_their_positions(name: str) -> None:
    model, inputs, plain = case(name)
    width = inputs["input_ids"].shape[1]
    ends = [int(plain[0, width + 2]), int(plain[1, width + 6])]
    for end in ends:
        how = {**GREEDY, "eos_token_id": end, "pad_token_id": 0}
        expected = model.generate(**inputs, **how, return_dict_in_generate=True)
        got = decoded(name, inputs, replay(inputs, plain), **how, return_dict_in_generate=True)
        assert torch.equal(got.sequences, expected.sequences)
        seen = (torch.cat([inputs["attention_mask"], torch.ones(2, 2)], dim=1) != 0)[:, None, :, None]
        for ours, theirs in zip(cache_of(got).layers, cache_of(expected).layers, strict=True):
            shown = seen[:, :, -ours.keys.shape[2] :] if ours.keys.shape[2] <= seen.shape[2] else seen
            slots = shown.shape[2]
            assert torch.allclose(ours.keys[:, :, :slots] * shown, theirs.keys[:, :, :slots] * shown, atol=1e-4)


def cache_of(output: Any) -> Any:
    return output.cache if "cache" in output else output.past_key_values


@pytest.mark.parametrize("name", ["qwen2_5_vl", "llava", "qwen3_5"])
def test_a_prompt_with_images_after_a_cache_is_decoded_plainly(name: str) -> None:
    model, inputs, plain = case(name)
    first = model.generate(**inputs, **GREEDY, return_dict_in_generate=True)
    more = torch.tensor([[7, 8, 9], [9, 8, 7]])
    ids = torch.cat([plain, more], dim=1)
    mask = torch.cat([inputs["attention_mask"], torch.ones(2, NEW + 3, dtype=torch.long)], dim=1)
    given = "cache" if "cache" in first else "past_key_values"
    runs = []
    for call in (model.generate, lambda **how: racer.generate(model, **how)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PlainDecodingWarning)
            runs.append(call(input_ids=ids, attention_mask=mask, **{given: copy.deepcopy(cache_of(first))}, **GREEDY))
    assert torch.equal(*runs)


@pytest.mark.parametrize("name", ALWAYS)
def test_a_prompt_with_kinds_of_tokens_is_scored_at_once(name: str) -> None:
    """transformers would score it in pieces, each of which took the place of the one before."""
    model, inputs, _ = case(name)
    ids = torch.randint(3, IMAGE, (1, 24), generator=torch.Generator().manual_seed(1))
    text = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    text |= {kind: torch.zeros_like(ids) for kind in inputs if kind.endswith("token_type_ids")}
    got = decoded(name, text, "racer", **GREEDY, prefill_chunk_size=5)
    assert torch.equal(got, model.generate(**text, **GREEDY))


@_RECENT
@pytest.mark.parametrize("mode", ["static", "off"])
def test_shapes_may_be_static_for_other_calls(mode: Any) -> None:
    model, inputs, plain = case("qwen2_5_vl")
    got = racer.generate(model, **inputs, **GREEDY, config=DecodeConfig(budget=12, compile=mode))
    assert torch.equal(got, plain)


def test_arguments_of_every_step_are_decoded_plainly() -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.BertConfig(**sizes, vocab_size=VOCAB, is_decoder=True, eos_token_id=None)
    model = transformers.BertLMHeadModel(config).eval()
    ids = torch.tensor([[5, 6, 7, 8]])
    how = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **GREEDY}
    text = {**how, "token_type_ids": torch.zeros_like(ids)}
    assert torch.equal(racer.generate(model, **text), model.generate(**text))
    config = transformers.GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=VOCAB, eos_token_id=None)
    adding = loud(transformers.GPT2LMHeadModel(config), 12)
    with pytest.warns(PlainDecodingWarning, match="'token_type_ids' goes into every step"):
        got = racer.generate(adding, **text)  # 0 is a token to it
    assert torch.equal(got, adding.generate(**text))
    assert not torch.equal(got, adding.generate(**how))
    kinds = {**how, "token_type_ids": torch.ones_like(ids)}
    with pytest.warns(PlainDecodingWarning, match="'token_type_ids' goes into every step"):
        got = racer.generate(model, **kinds)
    assert torch.equal(got, model.generate(**kinds))


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_5"])
def test_a_trial_leaves_no_trace_where_the_next_call_looks(name: str) -> None:
    model, inputs = MODELS[name]()
    model.generate(**inputs, **GREEDY)
    noted = model.model.rope_deltas
    assert bool(noted.any())
    before = {id(module): dict(vars(module)) for module in model.modules()}
    assert probe(model).way != "plain"
    assert model.model.rope_deltas is noted
    assert {id(module): dict(vars(module)) for module in model.modules()} == before


def test_embeddings_in_place_of_tokens_are_decoded_plainly() -> None:
    model, inputs, _ = case("llava")
    ids = inputs["input_ids"].clamp(max=IMAGE - 1)
    embedded = model.get_input_embeddings()(ids).detach()
    how = {"inputs_embeds": embedded, "attention_mask": inputs["attention_mask"], **GREEDY}
    with pytest.warns(PlainDecodingWarning):
        got = racer.generate(model, **how)
    assert torch.equal(got, model.generate(**how))
