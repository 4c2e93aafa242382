"""Every field of transformers' ``GenerationConfig``, and what becomes of it in a call that RACER decodes.

docs/generation_config.md shows the same table; a test holds both to the installed transformers.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Any

import attrs
from transformers import GenerationConfig
from transformers.generation import GenerationMode

from racer.errors import UnsupportedGeneration


class Treatment(StrEnum):
    """What becomes of a field."""

    HONOURED = "honoured"
    NO_EFFECT = "without effect"
    PLAIN = "plain decoding"


def _given(value: Any, _: GenerationConfig) -> bool:
    return value is not None and value is not False


@attrs.frozen
class Field:
    """One field."""

    treatment: Treatment
    why: str
    active: Callable[[Any, GenerationConfig], bool] = _given
    """Whether a value asks for anything, beside the other settings; for those that are decoded plainly."""


def _honoured(why: str = "") -> Field:
    return Field(Treatment.HONOURED, why)


def _without_effect(why: str) -> Field:
    return Field(Treatment.NO_EFFECT, why)


def _plain(why: str, active: Callable[[Any, GenerationConfig], bool] = _given) -> Field:
    return Field(Treatment.PLAIN, why, active)


def _more_than_one(value: Any, _: GenerationConfig) -> bool:
    return (value or 1) > 1


def _returned(value: Any, settings: GenerationConfig) -> bool:
    return bool(value and settings.return_dict_in_generate)


def _other_cache(value: Any, settings: GenerationConfig) -> bool:
    keeps_tokens = value in (None, "dynamic", "dynamic_full", "static", "hybrid", "sliding_window")
    return not keeps_tokens or (value not in (None, "dynamic") and bool(settings.return_dict_in_generate))


def _without_cache(value: Any, settings: GenerationConfig) -> bool:
    return bool(value and settings.use_cache is False)


_PROCESSOR = "a logits processor, applied to every scored place that counts"
_OF_BEAMS = "it is about beams, and with beams a call is decoded plainly"
_OF_ASSISTANTS = "it is about an assistant model, and with one a call is decoded plainly"
_OF_ENCODERS = "transformers has put it in front by then"
_OF_COMPILING = "RACER's steps are compiled by `DecodeConfig.compile`"
_OTHER_METHOD = "another decoding method"

FIELDS: dict[str, Field] = {
    # how long
    "max_length": _honoured(),
    "max_new_tokens": _honoured(),
    "min_length": _honoured(_PROCESSOR),
    "min_new_tokens": _honoured(_PROCESSOR),
    "max_time": _honoured("asked after every token; a step may add several at once"),
    "stop_strings": _honoured("asked after every token"),
    "early_stopping": _without_effect(_OF_BEAMS),
    # which way of decoding
    "do_sample": _honoured("exact: the tokens that plain decoding gives with the same noise (`DecodeConfig.seed`)"),
    "num_beams": _plain("beams keep several texts; RACER decodes greedily or by sampling", _more_than_one),
    "num_beam_groups": _plain(_OTHER_METHOD, _more_than_one),
    "diversity_penalty": _without_effect(_OF_BEAMS),
    "length_penalty": _without_effect(_OF_BEAMS),
    "low_memory": _without_effect("it is about methods that transformers no longer has"),
    "penalty_alpha": _plain(_OTHER_METHOD),
    "dola_layers": _plain(_OTHER_METHOD),
    "constraints": _plain(_OTHER_METHOD),
    "force_words_ids": _plain(_OTHER_METHOD),
    "use_mtp": _plain(_OTHER_METHOD),
    # the cache
    "use_cache": _honoured("the tokens are the same with and without; RACER always has a cache of its own"),
    "cache_implementation": _plain(
        "a cache that rounds (`quantized`), lives elsewhere (`offloaded`), belongs to continuous batching (`paged`) or "
        "is to be returned (anything but `dynamic`) is not RACER's; `static` without a returned cache changes nothing",
        _other_cache,
    ),
    "cache_config": _without_effect("it is about quantized caches, and with them a call is decoded plainly"),
    "max_cache_len": _without_effect("it is about static caches"),
    "prefill_chunk_size": _plain(
        "without a cache; with one it has no effect, as `DecodeConfig.prefill_chunk` says how long pieces are",
        _without_cache,
    ),
    # what is done to scores
    "temperature": _honoured(_PROCESSOR),
    "top_k": _honoured(_PROCESSOR),
    "top_p": _honoured(_PROCESSOR),
    "min_p": _honoured(_PROCESSOR),
    "top_h": _honoured(_PROCESSOR),
    "typical_p": _honoured(_PROCESSOR),
    "epsilon_cutoff": _honoured(_PROCESSOR),
    "eta_cutoff": _honoured(_PROCESSOR),
    "repetition_penalty": _honoured(_PROCESSOR),
    "encoder_repetition_penalty": _honoured(_PROCESSOR),
    "no_repeat_ngram_size": _honoured(_PROCESSOR),
    "encoder_no_repeat_ngram_size": _honoured(_PROCESSOR),
    "bad_words_ids": _honoured(_PROCESSOR),
    "sequence_bias": _honoured(_PROCESSOR),
    "renormalize_logits": _honoured(_PROCESSOR),
    "remove_invalid_values": _honoured(_PROCESSOR),
    "forced_bos_token_id": _honoured(_PROCESSOR),
    "forced_eos_token_id": _honoured(_PROCESSOR),
    "exponential_decay_length_penalty": _honoured(_PROCESSOR),
    "suppress_tokens": _honoured(_PROCESSOR),
    "begin_suppress_tokens": _honoured(_PROCESSOR),
    "watermarking_config": _honoured(
        f"{_PROCESSOR}; one that has a memory (SynthID) makes calls of several rows plain"
    ),
    "guidance_scale": _honoured(f"{_PROCESSOR}; it keeps a cache of its own, so calls of several rows are plain"),
    "token_healing": _plain("transformers rewrites the prompt with a tokenizer that RACER is not given"),
    # what is returned
    "num_return_sequences": _honoured(),
    "output_scores": _honoured("of the emitted tokens; zeros behind the end of a row that ends before others"),
    "output_logits": _honoured("of the emitted tokens; zeros behind the end of a row that ends before others"),
    "output_attentions": _plain("a tree's attention has columns that no text has", _returned),
    "output_hidden_states": _plain("a step scores a tree, not one token", _returned),
    "return_dict_in_generate": _honoured("with the cache, in transformers' class, and with `racer_stats`"),
    # tokens with a meaning
    "pad_token_id": _honoured(),
    "bos_token_id": _honoured(),
    "eos_token_id": _honoured(),
    "decoder_start_token_id": _without_effect(_OF_ENCODERS),
    # assistants
    "is_assistant": _plain("the call is part of another model's decoding"),
    "prompt_lookup_num_tokens": _plain(_OTHER_METHOD),
    "assistant_early_exit": _plain(_OTHER_METHOD),
    "speculation_type": _plain(_OTHER_METHOD),
    "max_matching_ngram_size": _without_effect("it is about transformers' prompt lookup"),
    "num_assistant_tokens": _without_effect(_OF_ASSISTANTS),
    "num_assistant_tokens_schedule": _without_effect(_OF_ASSISTANTS),
    "assistant_confidence_threshold": _without_effect(_OF_ASSISTANTS),
    "assistant_lookbehind": _without_effect(_OF_ASSISTANTS),
    "target_lookbehind": _without_effect(_OF_ASSISTANTS),
    "assistant_ensemble_weight": _without_effect(_OF_ASSISTANTS),
    # how it is run
    "compile_config": _without_effect(_OF_COMPILING),
    "disable_compile": _without_effect(_OF_COMPILING),
    "continuous_batching_config": _without_effect("it is about `generate_batch`"),
    "transformers_version": _without_effect("it says who wrote the configuration"),
}


def public_fields(settings: GenerationConfig) -> dict[str, Any]:
    """The fields of a configuration that are there for users, and their values."""
    return {name: value for name, value in vars(settings).items() if not name.startswith("_")}


def refuse_settings(settings: GenerationConfig) -> None:
    """Say no to settings that ask for what RACER does not do.

    :raises UnsupportedGeneration: the reason names the field.
    """
    for name, value in public_fields(settings).items():
        field = FIELDS.get(name)
        if field is not None and field.treatment is Treatment.PLAIN and field.active(value, settings):
            raise UnsupportedGeneration(f"{name}={value!r}: {field.why}")
    # how transformers reads them together
    if (mode := settings.get_generation_mode()) not in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE):
        raise UnsupportedGeneration(f"the settings choose another decoding method, {mode.value}")
    known = vars(GenerationConfig())
    for name, value in public_fields(settings).items():
        if name in known and name not in FIELDS and value != known[name]:
            raise UnsupportedGeneration(f"{name}={value!r}: a setting of a newer transformers than RACER knows")
