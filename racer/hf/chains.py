"""Calls that are scored as transformers prepares them: all of a model that takes chains, and prompts with images."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache, GenerationConfig

from racer.core.own_loop import CACHE
from racer.core.prompt_pieces import PreparedCall
from racer.errors import UnsupportedGeneration
from racer.hf.caches import MARKED, given_cache

BEHIND_ENCODER = ("self_attention_cache", "cross_attention_cache")


def refuse_for_chains(settings: GenerationConfig, arguments: dict[str, Any]) -> None:
    """Say no to caches that chains cannot go on from.

    :raises UnsupportedGeneration: one that has seen tokens already, or is of another kind than generate makes itself.
    """
    cache = given_cache(arguments)
    if cache is None:
        return
    parts = [getattr(cache, name) for name in BEHIND_ENCODER] if isinstance(cache, EncoderDecoderCache) else [cache]
    for part in parts:
        if type(part) is not DynamicCache or getattr(part, "offloading", False):
            raise UnsupportedGeneration(f"a cache of class {type(part).__name__} is given: pass a DynamicCache")
        used = part.get_seq_length() if any(hasattr(layer, "keys") for layer in part.layers) else 0
        if used or any(_has_states(layer) for layer in part.layers):
            raise UnsupportedGeneration("the given cache has seen tokens, and this model is decoded by chains")


def _has_states(layer: Any) -> bool:
    return any(dict(getattr(layer, "has_previous_state", None) or {}).values())


def at_once(settings: GenerationConfig) -> GenerationConfig:
    """Settings by which transformers scores a prompt in one pass: into a cache of trees no second one can follow."""
    if settings.prefill_chunk_size is None:
        return settings
    whole = copy.copy(settings)
    whole.prefill_chunk_size = None
    return whole


def prepared_call(
    model: Any,
    input_ids: Tensor,
    settings: GenerationConfig,
    arguments: dict[str, Any],
    pad: int,
    offset: Tensor | None = None,
) -> PreparedCall:
    """What transformers' own loop would be given; with a cache, whether or not the call wants one.

    :param offset: of the new tokens' positions.
    """
    cache = given_cache(arguments)
    if cache is None:
        config = model.config.get_text_config(decoder=True)
        made = [DynamicCache(config=config) for _ in range(2 if model.config.is_encoder_decoder else 1)]
        arguments = arguments | {CACHE: EncoderDecoderCache(*made) if len(made) == 2 else made[0], "use_cache": True}
    keeps = cache is not None and bool(getattr(cache, "_is_user_defined", not MARKED))
    keeps = keeps or (cache is not None and bool(settings.return_dict_in_generate))
    return PreparedCall(input_ids, settings, arguments, pad=pad, keeps_cache=keeps, offset=offset)
