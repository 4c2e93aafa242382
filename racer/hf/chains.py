"""What a call gives to the decoding of a model that takes chains: transformers' own preparation."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import DynamicCache, GenerationConfig

from racer.core.own_loop import CACHE
from racer.core.prompt_pieces import PreparedCall
from racer.errors import UnsupportedGeneration
from racer.hf.caches import MARKED, given_cache


def refuse_for_chains(settings: GenerationConfig, arguments: dict[str, Any]) -> None:
    """Say no to caches that chains cannot go on from.

    :raises UnsupportedGeneration: one that has seen tokens already, or is of another kind than generate makes itself.
    """
    cache = given_cache(arguments)
    if cache is None:
        return
    if type(cache) is not DynamicCache or getattr(cache, "offloading", False):
        raise UnsupportedGeneration(f"a cache of class {type(cache).__name__} is given: pass a DynamicCache")
    used = cache.get_seq_length() if any(hasattr(layer, "keys") for layer in cache.layers) else 0
    if used or any(_has_states(layer) for layer in cache.layers):
        raise UnsupportedGeneration("the given cache has seen tokens, and this model is decoded by chains")


def _has_states(layer: Any) -> bool:
    return any(dict(getattr(layer, "has_previous_state", None) or {}).values())


def prepared_call(
    model: Any, input_ids: Tensor, settings: GenerationConfig, arguments: dict[str, Any], pad: int
) -> PreparedCall:
    """What transformers' own loop would be given; with a cache, whether or not the call wants one."""
    if given_cache(arguments) is None:
        cache = DynamicCache(config=model.config.get_text_config(decoder=True))
        arguments = arguments | {CACHE: cache, "use_cache": True}
        return PreparedCall(input_ids, settings, arguments, pad=pad)
    given = getattr(given_cache(arguments), "_is_user_defined", not MARKED)
    return PreparedCall(
        input_ids,
        settings,
        arguments,
        pad=pad,
        keeps_cache=bool(given or settings.return_dict_in_generate),
    )
