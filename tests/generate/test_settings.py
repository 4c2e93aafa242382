"""Every setting of ``GenerationConfig``: as transformers has it, or plain with the reason."""

from __future__ import annotations

from typing import Any

import torch
from transformers import CompileConfig, GenerationConfig, SynthIDTextWatermarkingConfig, WatermarkingConfig

from support.generate_calls import Either, Plain, Raises
from support.generate_cases import NOT_CUSTOM, Case, Ways, check, over_models
from support.generate_models import EOS, PAD, plain_model, prompts, tokenizer

DICT = {"return_dict_in_generate": True}


def _common(model: Any, rows: int) -> int:
    """A token that the model writes, so that an end of sequence does happen."""
    new = model.generate(**prompts(rows), max_new_tokens=12, do_sample=False, pad_token_id=PAD)[:, -10:]
    return int(new.flatten().mode().values)


def _with_eos(**how: Any) -> Any:
    return lambda model, rows: {"eos_token_id": _common(model, rows), **how}


PROCESSORS = [
    Case("greedy", {}),
    Case("temperature has no effect", {"temperature": 0.7}),
    Case("repetition_penalty", {"repetition_penalty": 1.3}),
    Case("repetition_penalty below one", {"repetition_penalty": 0.7}),
    Case("encoder_repetition_penalty", {"encoder_repetition_penalty": 1.4}),
    Case("encoder_no_repeat_ngram_size", {"encoder_no_repeat_ngram_size": 2}, Either()),
    Case("no_repeat_ngram_size 1", {"no_repeat_ngram_size": 1}),
    Case("no_repeat_ngram_size 3", {"no_repeat_ngram_size": 3}),
    Case("bad_words_ids", lambda m, r: {"bad_words_ids": [[_common(m, r)], [7, 8], [9, 10, 11]]}),
    Case("sequence_bias", lambda m, r: {"sequence_bias": {(_common(m, r),): -9.0, (6, 7): 4.0}}),
    Case("sequence_bias as lists", {"sequence_bias": [[[40], 3.0], [[6, 7], 4.0]]}),
    Case("min_length", _with_eos(min_length=30)),
    Case("min_new_tokens", _with_eos(min_new_tokens=8)),
    Case("min_length and min_new_tokens", _with_eos(min_length=3, min_new_tokens=5)),
    Case("forced_bos_token_id", {"forced_bos_token_id": 9}),
    Case("forced_bos_token_id after one token", lambda m, r: {
        "input_ids": torch.full((r, 1), 5), "attention_mask": ..., "forced_bos_token_id": 9}),
    Case("forced_eos_token_id", {"forced_eos_token_id": EOS}),
    Case("forced_eos_token_id as list", {"forced_eos_token_id": [EOS, 5]}),
    Case("suppress_tokens", lambda m, r: {"suppress_tokens": [_common(m, r), 5]}),
    Case("begin_suppress_tokens", {"begin_suppress_tokens": list(range(4, 60))}),
    Case("exponential_decay_length_penalty", {"exponential_decay_length_penalty": (3, 1.3), "eos_token_id": EOS}),
    Case("renormalize_logits", {"renormalize_logits": True, "repetition_penalty": 1.2}),
    Case("remove_invalid_values", {"remove_invalid_values": True}),
    Case("guidance_scale", {"guidance_scale": 1.5}, Either("(?i)guidance")),
    Case("guidance_scale with negative prompts", lambda m, r: {
        "guidance_scale": 1.5, "negative_prompt_ids": torch.full((r, 3), 8)}, Either("(?i)guidance")),
    Case("guidance_scale without cache", {"guidance_scale": 1.5, "use_cache": False}, Either("(?i)guidance|use_cache")),
    Case("watermarking_config", {"watermarking_config": WatermarkingConfig(bias=3.0)}, Either("WatermarkLogits")),
    Case("watermarking_config as dict", {"watermarking_config": {"bias": 3.0, "context_width": 2,
        "seeding_scheme": "selfhash"}}, Either("WatermarkLogits")),
    Case("SynthID", {"watermarking_config": SynthIDTextWatermarkingConfig(keys=[3, 5, 7], ngram_len=3),
                     "do_sample": True, "max_new_tokens": 8}, Either("SynthID")),
    Case("everything that reads the prefix", _with_eos(
        repetition_penalty=1.1, no_repeat_ngram_size=3, bad_words_ids=[[5]], min_new_tokens=4)),
]  # fmt: skip

SAMPLED = [
    Case(name, {"do_sample": True, "max_new_tokens": 10} | how)
    for name, how in {
        "plain sampling": {},
        "temperature": {"temperature": 0.5},
        "high temperature": {"temperature": 2.5},
        "top_k": {"top_k": 5},
        "no top_k": {"top_k": 0},
        "top_p": {"top_p": 0.8},
        "min_p": {"min_p": 0.1},
        "top_h": {"top_h": 0.5},
        "typical_p": {"typical_p": 0.7},
        "epsilon_cutoff": {"epsilon_cutoff": 0.01},
        "eta_cutoff": {"eta_cutoff": 0.01},
        "all warpers": {"temperature": 0.8, "top_k": 20, "top_p": 0.9, "min_p": 0.01, "typical_p": 0.9},
        "sampled with penalties": {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "temperature": 0.7},
        "num_return_sequences": {"num_return_sequences": 3},
        "top_k of one": {"top_k": 1},
    }.items()
]

LENGTHS = [
    Case("max_length", {"max_new_tokens": ..., "max_length": 29}),
    Case("max_new_tokens 1", {"max_new_tokens": 1}),
    Case("both lengths", {"max_length": 26}),
    Case("the default length", {"max_new_tokens": ...}, Either(), models=("llama",)),
    Case("max_time long", {"max_time": 600.0}),
    Case("max_time over at once", {"max_time": 0.0}),
    Case("eos", _with_eos()),
    Case("eos list", lambda m, r: {"eos_token_id": [_common(m, r), EOS]}),
    Case("eos tensor", lambda m, r: {"eos_token_id": torch.tensor([_common(m, r), EOS])}),
    Case("eos and no pad", _with_eos(pad_token_id=None)),
    Case("eos is pad", lambda m, r: {"eos_token_id": _common(m, r), "pad_token_id": _common(m, r)}),
    Case("eos beyond the vocabulary", {"eos_token_id": 10**6}),
    Case("eos negative", {"eos_token_id": -1}, Either()),
    Case("pad negative", _with_eos(pad_token_id=-1), Either()),
    Case("stop string", lambda m, r: _stops(m, r, False), faces=NOT_CUSTOM),
    Case("stop strings", lambda m, r: _stops(m, r, True), faces=NOT_CUSTOM),
    Case("stop strings in a configuration", lambda m, r: {
        "generation_config": GenerationConfig(stop_strings=_stops(m, r, True)["stop_strings"], max_new_tokens=12,
        pad_token_id=PAD), "tokenizer": tokenizer(), "max_new_tokens": ..., "pad_token_id": ...}, faces=NOT_CUSTOM),
    Case("empty stop strings", {"stop_strings": [], "tokenizer": tokenizer()}, Either(), faces=NOT_CUSTOM),
    Case("a tokenizer and nothing to stop at", {"tokenizer": tokenizer()}, faces=NOT_CUSTOM),
    Case("early_stopping has no effect", {"early_stopping": True}, Either()),
    Case("length_penalty has no effect", {"length_penalty": 2.0}, Either()),
]  # fmt: skip


def _stops(model: Any, rows: int, several: bool) -> dict[str, Any]:
    """Text of two tokens that the model writes."""
    new = model.generate(**prompts(rows), max_new_tokens=12, do_sample=False, pad_token_id=PAD)[0, -14:]
    text = tokenizer().decode(new)
    strings = [text[len(text) // 2 :][:3], "never there"]
    return {"stop_strings": strings if several else strings[0], "tokenizer": tokenizer()}


CACHES = [
    Case("use_cache False", {"use_cache": False}, Either("use_cache")),
    Case("cache dynamic", {"cache_implementation": "dynamic"}),
    Case("cache dynamic_full", {"cache_implementation": "dynamic_full"}, Either("cache_implementation")),
    Case("cache static", {"cache_implementation": "static", "disable_compile": True}, Either("cache_implementation")),
    Case("cache offloaded", {"cache_implementation": "offloaded"}, Either("cache_implementation")),
    Case(
        "cache offloaded_static",
        {"cache_implementation": "offloaded_static", "disable_compile": True},
        Either("cache_implementation"),
        rows=(1,),
    ),
    Case("cache quantized", {"cache_implementation": "quantized"}, Either("cache_implementation"), rows=(1,)),
    Case("cache unknown", {"cache_implementation": "bogus"}, Either(), rows=(1,)),
    Case("cache_config", {"cache_config": {"nbits": 4}}, Either()),
    Case("max_cache_len", {"max_cache_len": 64}, Either()),
    Case("compile_config", {"compile_config": CompileConfig()}, Either()),
    Case("disable_compile", {"disable_compile": True}),
    Case("prefill_chunk_size", {"prefill_chunk_size": 5}, Either("prefill_chunk_size")),
    Case("low_memory", {"low_memory": True}, Either()),
    Case("returned cache", DICT, Either("cache|past_key_values|return_dict")),
]

OUTPUTS = [
    Case("output_scores", {"output_scores": True, **DICT}, Either("output_scores")),
    Case("output_scores with processors", {"output_scores": True, **DICT, "repetition_penalty": 1.3},
         Either("output_scores")),
    Case("output_scores with eos", _with_eos(output_scores=True, **DICT), Either("output_scores")),
    Case("output_logits", {"output_logits": True, **DICT}, Either("output_logits")),
    Case("output_hidden_states", {"output_hidden_states": True, **DICT}, Either("output_hidden_states")),
    Case("output_attentions", {"output_attentions": True, **DICT}, Either("output_attentions")),
    Case("all outputs", {"output_scores": True, "output_logits": True, "output_hidden_states": True,
         "output_attentions": True, **DICT}, Either("output_")),
    Case("outputs without a dict", {"output_scores": True, "output_logits": True}, Either("output_")),
    Case("sampled scores", {"output_scores": True, **DICT, "do_sample": True}, Either("output_scores")),
]  # fmt: skip

OTHER_WAYS = [
    Case("beams", {"num_beams": 2}, Plain("num_beams=2")),
    Case("beams that are sampled", {"num_beams": 2, "do_sample": True}, Plain("num_beams=2")),
    Case("beams returned", {"num_beams": 3, "num_return_sequences": 2, **DICT}, Plain("num_beams=3")),
    Case("beams with scores", {"num_beams": 2, "output_scores": True, **DICT}, Plain("num_beams=2")),
    Case("beams with early_stopping", _with_eos(num_beams=2, early_stopping=True, length_penalty=0.5),
         Plain("num_beams=2")),
    Case("beam groups", {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5}, Raises(ValueError),
         faces=NOT_CUSTOM),
    Case("constraints", {"constraints": [object()]}, Raises(ValueError), faces=NOT_CUSTOM, rows=(1,)),
    Case("force_words_ids", {"force_words_ids": [[5, 6]]}, Raises(ValueError), faces=NOT_CUSTOM),
    Case("force_words_ids with beams", {"force_words_ids": [[5, 6]], "num_beams": 2}, Raises(ValueError),
         faces=NOT_CUSTOM),
    Case("penalty_alpha", {"penalty_alpha": 0.6, "top_k": 4}, Raises(ValueError), faces=NOT_CUSTOM),
    Case("penalty_alpha without top_k", {"penalty_alpha": 0.6, "top_k": 0}, Either("penalty_alpha")),
    Case("penalty_alpha under sampling", {"penalty_alpha": 0.6, "do_sample": True}, Either("penalty_alpha")),
    Case("dola_layers", {"dola_layers": "low"}, Raises(ValueError), faces=NOT_CUSTOM),
    Case("prompt_lookup_num_tokens", {"prompt_lookup_num_tokens": 3}, Plain("prompt_lookup_num_tokens"), rows=(1,),
         faces=NOT_CUSTOM),
    Case("prompt_lookup in a batch", {"prompt_lookup_num_tokens": 3}, Raises(ValueError), rows=(4,), faces=NOT_CUSTOM),
    Case("assistant_model", lambda m, r: {"assistant_model": plain_model("llama")}, Plain("assistant_model"),
         rows=(1,), faces=NOT_CUSTOM),
    Case("assistant_model in a batch", lambda m, r: {"assistant_model": plain_model("llama")}, Raises(ValueError),
         rows=(4,), faces=NOT_CUSTOM),
    Case("assistant_early_exit", {"assistant_early_exit": 1}, Either("assistant_early_exit"), rows=(1,),
         faces=NOT_CUSTOM, models=("llama",)),
    Case("num_assistant_tokens has no effect", {"num_assistant_tokens": 3}, Either()),
    Case("is_assistant", {"is_assistant": True}, Either("is_assistant")),
    Case("use_mtp", {"use_mtp": True}, Either("use_mtp"), faces=NOT_CUSTOM),
    Case("speculation_type", {"speculation_type": "dflash"}, Either("speculation_type"), rows=(1,)),
    Case("token_healing", {"token_healing": True, "tokenizer": tokenizer()}, Either("token_healing"),
         faces=NOT_CUSTOM),
    Case("token_healing without a tokenizer", {"token_healing": True}, Raises(ValueError), faces=NOT_CUSTOM),
    Case("synced_gpus False", {"synced_gpus": False}, Either()),
    Case("trust_remote_code", {"trust_remote_code": True}, Either()),
    Case("custom_generate of a folder that is not there", {"custom_generate": "/nowhere"}, Raises(ValueError),
         faces=NOT_CUSTOM, rows=(1,)),
    Case("another custom_generate", {"custom_generate": lambda model, input_ids, **how: input_ids + 1},
         Plain("custom_generate"), faces=NOT_CUSTOM),
    Case("paged cache with a criterion", {"cache_implementation": "paged", "stopping_criteria": []},
         Raises(NotImplementedError, False), faces=NOT_CUSTOM, rows=(1,)),
    Case("num_return_sequences of greedy rows", {"num_return_sequences": 2}, Either()),
]  # fmt: skip

WRONG = [
    Case("a typing error", {"max_new_token": 3}, Raises(ValueError)),
    Case("temperature 0", {"do_sample": True, "temperature": 0.0}, Raises(ValueError)),
    Case("top_p 2", {"do_sample": True, "top_p": 2.0}, Either()),
    Case("top_k -1", {"do_sample": True, "top_k": -1}, Raises(ValueError)),
    Case("max_new_tokens 0", {"max_new_tokens": 0}, Raises(ValueError)),
    Case("max_new_tokens negative", {"max_new_tokens": -3}, Raises(ValueError)),
    Case("max_length too short", {"max_new_tokens": ..., "max_length": 3}, Raises(ValueError)),
    Case("max_length just full", lambda m, r: {"max_new_tokens": ..., "max_length": 24 if r > 1 else 20},
         Raises(ValueError)),
    Case("repetition_penalty -1", {"repetition_penalty": -1.0}, Raises(ValueError)),
    Case("bad_words_ids empty", {"bad_words_ids": [[]]}, Either()),
    Case("sequence_bias beyond the vocabulary", {"sequence_bias": {(10**6,): 1.0}}, Raises(ValueError)),
    Case("suppress_tokens beyond the vocabulary", {"suppress_tokens": [10**6]}, Either()),
    Case("stop strings without a tokenizer", {"stop_strings": ["x"]}, Raises(ValueError), faces=NOT_CUSTOM),
    Case("num_return_sequences above beams", {"num_beams": 2, "num_return_sequences": 3}, Raises(ValueError)),
    Case("watermark of another type", {"watermarking_config": 3}, Either()),
    Case("early_stopping of another type", {"early_stopping": "sometimes"}, Either()),
    Case("do_sample None", {"do_sample": None}, Either()),
    Case("everything suppressed", {"suppress_tokens": list(range(100))}, Either()),
    Case("everything suppressed under sampling", {"suppress_tokens": list(range(100)), "do_sample": True}, Either()),
]  # fmt: skip


@over_models([*PROCESSORS, *SAMPLED, *LENGTHS])
def test_settings_that_shape_the_text(case: Case, name: str, ways: Ways) -> None:
    check(case, name, ways)


@over_models([*CACHES, *OUTPUTS])
def test_settings_of_caches_and_outputs(case: Case, name: str, ways: Ways) -> None:
    check(case, name, ways)


@over_models(OTHER_WAYS)
def test_other_ways_to_decode(case: Case, name: str, ways: Ways) -> None:
    check(case, name, ways)


@over_models(WRONG)
def test_what_transformers_refuses(case: Case, name: str, ways: Ways) -> None:
    check(case, name, ways)
