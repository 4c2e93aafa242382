"""Every form in which transformers takes a prompt."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import DynamicCache, GenerationConfig, StaticCache

from support.generate_calls import LOGITS, Either, Raises, call, faces, tie
from support.generate_cases import Case, Ways, attached_model, check, over_models
from support.generate_models import BOS, EOS, NAMES, PAD, build, prompts

SETTINGS = GenerationConfig(max_new_tokens=9, pad_token_id=PAD, do_sample=False)
ALONE: dict[str, Any] = {"input_ids": ..., "attention_mask": ...}


def _ids(rows: int) -> torch.Tensor:
    """Prompts of one length, without padding."""
    return torch.tensor([[96, 49, 67, 47, 49, 67, 47, 49, 30 + row] for row in range(rows)])


def _mask(change: Any) -> Any:
    def how(model: Any, rows: int) -> dict[str, Any]:
        ids = _ids(rows)
        mask = torch.ones_like(ids)
        return {"input_ids": ids, "attention_mask": change(mask)}

    return how


def _set(place: Any, value: int = 0) -> Any:
    def change(mask: torch.Tensor) -> torch.Tensor:
        mask[place] = value
        return mask

    return change


def _padded_right(model: Any, rows: int) -> dict[str, Any]:
    ids = torch.tensor([[96, 49, 67, 47, 49], [96, 57, 96, PAD, PAD], [60, 61, PAD, PAD, PAD], [62, 63, 64, 65, PAD]])
    ids = ids[-rows:]
    return {"input_ids": ids, "attention_mask": (ids != PAD).long()}


def _embeds(model: Any, rows: int) -> torch.Tensor:
    return model.get_input_embeddings()(prompts(rows)["input_ids"]).detach()


def _turn(model: Any, rows: int, padded: bool, **how: Any) -> dict[str, Any]:
    """A chat's second turn: the first one's cache, and the whole text with three tokens more."""
    given = prompts(rows) if padded else {"input_ids": _ids(rows)}
    out = model.generate(
        **given, max_new_tokens=5, do_sample=False, pad_token_id=PAD, return_dict_in_generate=True, **how
    )
    ids = torch.cat([out.sequences, torch.full((rows, 3), 49)], 1)
    turn: dict[str, Any] = {"input_ids": ids, "past_key_values": out.past_key_values, "attention_mask": ...}
    if padded:
        mask = given["attention_mask"]
        turn["attention_mask"] = torch.cat([mask, torch.ones(rows, ids.shape[1] - mask.shape[1], dtype=mask.dtype)], 1)
    return turn


def _only_new(model: Any, rows: int, mask: bool) -> dict[str, Any]:
    turn = _turn(model, rows, False)
    width = turn["input_ids"].shape[1]
    seen = turn["past_key_values"].get_seq_length()
    return turn | {
        "input_ids": turn["input_ids"][:, seen:],
        "attention_mask": torch.ones(rows, width, dtype=torch.long) if mask else ...,
    }


MASK = "mask|padding|position_ids"
EMBEDS = "inputs_embeds|input_ids"
CACHE = "cache|past_key_values|position_ids"
FORMS = [
    Case("positional ids", {}, args=lambda how: (how.pop("input_ids"),)),
    Case("positional ids and configuration", {"max_new_tokens": ..., "pad_token_id": ..., "do_sample": ...,
         "generation_config": SETTINGS}, args=lambda how: (how.pop("input_ids"), how.pop("generation_config"))),
    Case("inputs=", lambda m, r: {"input_ids": ..., "inputs": prompts(r)["input_ids"]}),
    Case("inputs= and input_ids=", lambda m, r: {"inputs": _ids(r)}, Raises(ValueError)),
    Case("inputs=None", {"inputs": None}),
    Case("no input", ALONE, rows=(1,)),
    Case("no input and no bos", {**ALONE, "bos_token_id": -1}, Either(), rows=(1,)),
    Case("input_ids=None", {"input_ids": None, "attention_mask": ...}, Either(), rows=(1,)),
    Case("empty ids", lambda m, r: {"input_ids": torch.empty(r, 0, dtype=torch.long), "attention_mask": ...},
         Either(), rows=(1, 4)),
    Case("no rows", {"input_ids": torch.empty(0, 4, dtype=torch.long), "attention_mask": ...}, Either(), rows=(1,)),
    Case("one token", lambda m, r: {"input_ids": torch.full((r, 1), BOS), "attention_mask": ...}),
    Case("ids of one dimension", {"input_ids": torch.tensor([5, 6, 7]), "attention_mask": ...}, Either(), rows=(1,)),
    Case("ids of three dimensions", {"input_ids": torch.ones(1, 2, 3, dtype=torch.long), "attention_mask": ...},
         Either(), rows=(1,)),
    Case("a list of ids", {"input_ids": [[5, 6, 7]], "attention_mask": ...}, Either(), rows=(1,)),
    Case("int32 ids", lambda m, r: {"input_ids": prompts(r)["input_ids"].int()}, Either("int32|dtype")),
    Case("float ids", lambda m, r: {"input_ids": prompts(r)["input_ids"].float()}, Either()),
    Case("ids beyond the vocabulary", lambda m, r: {"input_ids": _ids(r) + 60, "attention_mask": ...},
         Raises(IndexError)),
    Case("negative ids", lambda m, r: {"input_ids": _ids(r) - 60, "attention_mask": ...}, Raises(IndexError)),
    Case("a configuration that is not one", {"generation_config": {"max_new_tokens": 3}}, Either()),
    Case("a configuration and overrides", {"generation_config": SETTINGS, "max_new_tokens": 4}),
    Case("unused arguments", {"labels": torch.ones(1)}, Either()),
    Case("logits_to_keep", {"logits_to_keep": 1}),
    Case("all logits kept", {"logits_to_keep": 0}, Either("logits_to_keep")),
    Case("output_router_logits", {"output_router_logits": True}, Either()),
    Case("negative_prompt_ids alone", lambda m, r: {"negative_prompt_ids": _ids(r)}, Either()),
]  # fmt: skip

MASKS = [
    Case("left padding", {}),
    Case("no mask", lambda m, r: {"input_ids": _ids(r), "attention_mask": ...}),
    Case("no mask, pads in the prompt", {"attention_mask": ...}, Either(MASK)),
    Case("no mask, a pad inside", lambda m, r: {
        "input_ids": _set((slice(None), 3), PAD)(_ids(r)), "attention_mask": ...}, Either(MASK)),
    Case("no mask, pad is eos", {"attention_mask": ..., "eos_token_id": PAD}, Either(MASK)),
    Case("right padding", _padded_right, Either(MASK)),
    Case("right padding and no mask", lambda m, r: _padded_right(m, r) | {"attention_mask": ...}, Either(MASK)),
    Case("a hole", _mask(_set((slice(None), 4))), Either(MASK)),
    Case("holes and left padding", _mask(_set((slice(None), [0, 1, 3, 5]))), Either(MASK)),
    Case("the last token is masked", _mask(_set((0, -1))), Either(MASK)),
    Case("a row is masked", _mask(_set(0)), Either(MASK), rows=(4,)),
    Case("everything is masked", _mask(_set(slice(None))), Either(MASK)),
    Case("mask of bool", _mask(lambda mask: _set((0, 0))(mask).bool()), Either(MASK)),
    Case("mask of float", _mask(lambda mask: _set((0, 0))(mask).float()), Either(MASK)),
    Case("mask of int32", _mask(lambda mask: _set((0, 0))(mask).int()), Either(MASK)),
    Case("mask of other numbers", _mask(_set((0, 0), 2)), Either(MASK)),
    Case("mask too short", _mask(lambda mask: mask[:, 1:]), Either(MASK)),
    Case("mask too long", _mask(lambda mask: torch.cat([mask, mask], 1)), Either(MASK)),
    Case("mask of fewer rows", _mask(lambda mask: _set((0, 0))(mask)[:1]), Either(MASK), rows=(4,)),
    Case("mask of one dimension", _mask(lambda mask: mask[0]), Either(MASK)),
    Case("mask of four dimensions", _mask(lambda mask: mask[:, None, None].expand(-1, 1, 9, 9).tril()),
         Either(MASK)),
    Case("mask None", {"attention_mask": None}, Either(MASK)),
]  # fmt: skip

MODEL_ARGUMENTS = [
    Case("inputs_embeds", lambda m, r: {"input_ids": ..., "inputs_embeds": _embeds(m, r)}, Either(EMBEDS)),
    Case("inputs_embeds without a mask", lambda m, r: {
        "input_ids": ..., "attention_mask": ..., "inputs_embeds": _embeds(m, r)}, Either(EMBEDS)),
    Case("inputs_embeds and input_ids", lambda m, r: {"inputs_embeds": _embeds(m, r)}, Either(EMBEDS)),
    Case("inputs_embeds and max_length", lambda m, r: {
        "input_ids": ..., "inputs_embeds": _embeds(m, r), "max_new_tokens": ..., "max_length": 8},
        Either(EMBEDS)),
    Case("token_type_ids", lambda m, r: {"token_type_ids": prompts(r)["attention_mask"]}, Either("token_type_ids")),
    Case("token_type_ids of zeros", lambda m, r: {"token_type_ids": torch.zeros_like(prompts(r)["input_ids"])},
         Either("token_type_ids")),
    Case("usual position_ids", lambda m, r: {
        "position_ids": (prompts(r)["attention_mask"].cumsum(1) - 1).clamp(min=0)}, Either("position_ids")),
    Case("shifted position_ids", lambda m, r: {"position_ids": (prompts(r)["attention_mask"].cumsum(1) + 6)},
         Either("position_ids")),
    Case("position_ids from 0", lambda m, r: {
        "position_ids": torch.arange(prompts(r)["input_ids"].shape[1]).expand(r, -1)}, Either("position_ids")),
    Case("position_ids of one row", lambda m, r: {
        "input_ids": _ids(r), "attention_mask": ..., "position_ids": torch.arange(9)[None]}, Either("position_ids")),
    Case("output_attentions as an argument", {"output_attentions": True}, Either("output_attentions")),
    Case("a 4D mask of the model's", {"cache_position": torch.arange(24)}, Either("cache_position"), rows=(4,)),
    Case("an empty cache", lambda m, r: {"past_key_values": DynamicCache()}, Either(CACHE)),
    Case("an empty cache of the model's", lambda m, r: {"past_key_values": DynamicCache(config=m.config)},
         Either(CACHE)),
    Case("an empty cache by its new name", lambda m, r: {"cache": DynamicCache(config=m.config)}, Either(CACHE)),
    Case("an empty cache, returned", lambda m, r: {
        "past_key_values": DynamicCache(config=m.config), "return_dict_in_generate": True}, Either(CACHE)),
    Case("a static cache", lambda m, r: {
        "past_key_values": StaticCache(m.config, max_cache_len=64), "disable_compile": True}, Either(CACHE)),
    Case("a next turn", lambda m, r: _turn(m, r, False), Either(CACHE)),
    Case("a next turn, padded", lambda m, r: _turn(m, r, True), Either(CACHE)),
    Case("a next turn, padded, without its mask", lambda m, r: _turn(m, r, True) | {"attention_mask": ...},
         Either(CACHE)),
    Case("a next turn after eos", lambda m, r: _turn(m, r, True, eos_token_id=EOS), Either(CACHE)),
    Case("a next turn, returned", lambda m, r: _turn(m, r, True) | {"return_dict_in_generate": True}, Either(CACHE)),
    Case("a next turn, sampled", lambda m, r: _turn(m, r, True) | {"do_sample": True}, Either(CACHE)),
    Case("a next turn, new tokens only", lambda m, r: _only_new(m, r, True), Either(CACHE)),
    Case("a next turn, new tokens only and no mask", lambda m, r: _only_new(m, r, False), Either(CACHE)),
    Case("a cache and use_cache False", lambda m, r: _turn(m, r, False) | {"use_cache": False}, Either()),
    Case("a cache of another batch", lambda m, r: _turn(m, r, False) | {"input_ids": _ids(r + 1).repeat(1, 3)},
         Either()),
    Case("a cache that is longer than the prompt", lambda m, r: _turn(m, r, False) | {"input_ids": _ids(r)},
         Either()),
    Case("a tuple for a cache", {"past_key_values": ((), ())}, Either()),
]  # fmt: skip


@over_models(FORMS)
def test_forms(case: Case, name: str, ways: Ways) -> None:
    check(case, name, ways)


@over_models(MASKS)
def test_masks(case: Case, name: str, ways: Ways) -> None:
    check(case, name, ways)


@over_models(MODEL_ARGUMENTS)
def test_arguments_of_the_model(case: Case, name: str, ways: Ways) -> None:
    check(case, name, ways)


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("name", NAMES)
def test_float32_is_equal_or_a_tie(name: str, rows: int) -> None:
    model = build(name).float()
    how = {**prompts(rows), "max_new_tokens": 40, "do_sample": False, "pad_token_id": PAD}
    plain = call(model.generate, how).value
    ours = call(faces(model, None)["racer.generate"], how)
    assert not ours.reasons
    assert tie(model, plain, ours.value, how["attention_mask"], how["input_ids"].shape[1])


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_gives_tokens(name: str) -> None:
    model = build(name).bfloat16()
    how = {**prompts(4), "max_new_tokens": 20, "do_sample": False, "pad_token_id": PAD}
    ours = call(faces(model, None)["racer.generate"], how)
    assert not ours.error
    assert ours.value.shape == (4, 44)
    assert 0 <= int(ours.value.min()) <= int(ours.value.max()) < model.config.vocab_size


def test_defaults_of_the_models_own_configuration() -> None:
    """Settings that come from ``generation_config.json``, not from the call."""
    model = build("llama")
    own = {"repetition_penalty": 1.3, "no_repeat_ngram_size": 3, "eos_token_id": [30, 40], "max_new_tokens": 12}
    for name, value in {**own, "pad_token_id": PAD}.items():
        setattr(model.generation_config, name, value)
    plain = call(model.generate, prompts())
    for face, way in faces(model, attached_model("llama"), LOGITS).items():
        if face != "attached":
            ours = call(way, prompts())
            assert not ours.error
            assert not ours.reasons
            assert torch.equal(ours.value, plain.value), face


def test_sampling_by_the_models_own_configuration() -> None:
    model = build("qwen2")
    own = {"do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.8, "pad_token_id": PAD}
    for name, value in own.items():
        setattr(model.generation_config, name, value)
    how = {**prompts(), "max_new_tokens": 12}
    one, other = (call(faces(model, None)["racer.generate"], how, seed=seed) for seed in (1, 2))
    assert not torch.equal(one.value, other.value)
