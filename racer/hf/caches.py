"""transformers' caches: a call goes on from the states in one, and leaves it as plain decoding does."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import attrs
from torch import Tensor
from transformers import DynamicCache, GenerationConfig, GenerationMixin
from transformers.cache_utils import DynamicSlidingWindowLayer
from transformers.generation import GenerateDecoderOnlyOutput

from racer.core.cache_layout import Block
from racer.core.kv_cache import TreeCache
from racer.core.model_runner import CACHE_ARGUMENTS, ForwardPlan
from racer.core.subject import autocasts, contents_of
from racer.engine.outside_cache import FinalStates
from racer.errors import UnsupportedGeneration
from racer.hf.postponed import READABLE, postpone
from racer.hf.unsupported import left_padding

CACHE_FIELD = "cache" if "cache" in GenerateDecoderOnlyOutput.__dataclass_fields__ else "past_key_values"
"""What an output calls its cache: the former from transformers 5.24 on."""
CHANGED = (
    "the model is another than when it wrote this cache: behind rows that ended before others, states of pad "
    "tokens are zeros (a mask should hide them)"
)
MARKED = "_is_user_defined" in GenerationMixin._prepare_cache_for_generation.__code__.co_names
"""Whether ``generate`` marks the caches that it was given."""


@attrs.frozen(eq=False, kw_only=True)
class GivenCache:
    """A :class:`transformers.DynamicCache` as :class:`racer.engine.outside_cache.OutsideCache`."""

    cache: Any
    given: bool
    """Whether the caller has it, so that it must be filled at once."""
    padding: Sequence[int]
    length: int
    unseen: int
    pad: int
    """The token after the end of a row that ends before others."""

    def load(self, cache: TreeCache) -> None:
        if not self.length:
            return
        for index in cache.layout.stored:
            layer = self.cache.layers[index]
            start = self.length - layer.keys.shape[2]  # what a sliding window has left behind is never looked at
            for slots, states in zip(cache.layer(index), (layer.keys, layer.values), strict=True):
                slots[:, :, start : self.length] = states
        for index in cache.layout.indexed:
            cache.index_keys(index)[:, : self.length] = self.cache.layers[index].indexer_keys
        cache.append(self.length)

    def store(self, states: FinalStates) -> None:
        model = states.runner.model
        if states.complete or self.given or not self.cache.layers or autocasts(model):
            self._append(states.complete_with(self.pad), states.length, self.cache)
            return
        # scoring pad tokens may cost more than the call did
        later = attrs.evolve(states, runner=attrs.evolve(states.runner, packed=None))  # it is good for this call alone
        contents = contents_of(model)

        def fill(cache: Any) -> None:
            same = contents_of(model) == contents
            if not same:
                warnings.warn(CHANGED, stacklevel=2)
            self._append(later.complete_with(self.pad) if same else later.cache, later.length, cache)

        postpone(self.cache, fill)

    def _append(self, tree_cache: TreeCache, length: int, cache: Any) -> None:
        """Let each layer of ``cache`` take the new slots, up to ``length``, in its own way."""
        new = slice(self.length, length)
        for index in tree_cache.layout.stored:
            keys, values = (slots[:, :, new] for slots in tree_cache.layer(index))
            cache.update(keys, values, index)
            layer = cache.layers[index]
            if isinstance(layer, DynamicSlidingWindowLayer):  # it keeps a view of all
                layer.keys, layer.values = layer.keys.clone(), layer.values.clone()
        for index in tree_cache.layout.indexed:
            cache.update_indexer(tree_cache.index_keys(index)[:, new], index)


def given_cache(model_kwargs: dict[str, Any]) -> Any:
    """The cache among the arguments that ``generate`` has prepared; None if there is none."""
    return next((model_kwargs[name] for name in CACHE_ARGUMENTS if model_kwargs.get(name) is not None), None)


def outside_cache(
    input_ids: Tensor, settings: GenerationConfig, model_kwargs: dict[str, Any], plan: ForwardPlan, pad: int
) -> GivenCache | None:
    """The cache that a call goes on from or fills; None if nobody will see one.

    :param pad: the token after the end of a row that ends before others.
    :raises UnsupportedGeneration: one that cannot be read, or that does not fit the prompt and its mask.
    """
    cache = given_cache(model_kwargs)
    given = getattr(cache, "_is_user_defined", not MARKED)
    if cache is None or not (given or settings.return_dict_in_generate):
        return None
    if settings.use_cache is False:
        raise UnsupportedGeneration("a cache is given, and use_cache=False says not to use it")
    if type(cache) is not DynamicCache or getattr(cache, "offloading", False):
        raise UnsupportedGeneration(f"a cache of class {type(cache).__name__} is given: pass a DynamicCache")
    length = int(cache.get_seq_length())
    if reason := _misfit(cache, length, len(input_ids), plan):
        raise UnsupportedGeneration(f"the given cache {reason}")
    unseen = _unseen(input_ids, settings, model_kwargs, length)
    slots = unseen + input_ids.shape[1]
    padding = left_padding(input_ids, model_kwargs.get("attention_mask"), slots)
    return GivenCache(cache=cache, given=given, padding=padding, length=length, unseen=unseen, pad=pad)


def _unseen(input_ids: Tensor, settings: GenerationConfig, model_kwargs: dict[str, Any], length: int) -> int:
    """Slots of the cache whose tokens are not in ``input_ids``: all or none, as the mask's length says.

    transformers takes ``input_ids`` for the whole text if its mask is as long, and for the new tokens if it is longer.
    """
    width = input_ids.shape[1]
    mask, position = model_kwargs.get("attention_mask"), model_kwargs.get("position_ids")
    if mask is not None:
        masked = mask.shape[1]
    else:  # transformers leaves masks of ones away, and notes their length
        masked = getattr(settings, "_mask_length", width if position is None else position.shape[-1])
    if masked == width and length < width:
        return 0
    if masked == length + width and length:
        return length
    raise UnsupportedGeneration(
        f"the given cache holds {length} tokens, input_ids {width} and the attention mask {masked}: pass the whole "
        "text, or the new tokens alone with the mask of all"
    )


def _misfit(cache: DynamicCache, length: int, rows: int, plan: ForwardPlan) -> str:
    """Why a cache cannot be gone on from; empty if it can."""
    layout, layers = plan.layout, cache.layers
    needed = layout.stored[-1] + 1  # layers after the last that stores something may be left out
    if not needed <= len(layers) <= layout.layers and (length or layers):
        return f"has {len(layers)} layers, the model {layout.layers}"
    for index, *block in zip(layout.stored, layout.keys, layout.values, strict=True):
        if not layers:
            break
        layer = layers[index]
        if type(layer) not in READABLE or getattr(layer, "record_past", False):
            return f"has a layer that RACER does not read, a {type(layer).__name__}"
        slides = isinstance(layer, DynamicSlidingWindowLayer)
        if slides and layer.sliding_window not in (plan.masks.window, plan.masks.chunk):
            return f"slides by {layer.sliding_window} tokens, the model by {plan.masks.window or plan.masks.chunk}"
        if layer.get_seq_length() != length:
            return "holds more tokens in some layers than in others"
        if not length:
            continue
        if layer.keys.shape[2] != (min(length, layer.sliding_window - 1) if slides else length):
            return "does not hold what its length says"
        if layer.keys.shape[0] != rows:
            return f"has {layer.keys.shape[0]} rows, the call {rows}"
        if [Block.of(layer.keys), Block.of(layer.values)] != block:
            return "holds states of another shape, kind or place than the model's"
    for index, own in zip(layout.indexed, layout.index_keys, strict=True) if length else ():
        keys = getattr(layers[index], "indexer_keys", None)
        if keys is None or keys.shape[:2] != (rows, length) or Block.of(keys[:, None]) != own:
            return "does not hold the keys of the model's indexer"
    return ""
