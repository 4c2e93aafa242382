"""Calls whose prompt is more than its tokens: images, sounds, kinds of tokens.

Such a prompt is scored at once, with the model's own preparation, into our cache; trees go on from there. Whether they
may, and at which positions, the model is asked: what would it be given for the next token, if transformers went on?
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from racer.core.model_runner import CACHE_ARGUMENTS
from racer.core.own_loop import CACHE
from racer.core.prompt_pieces import KEEP
from racer.core.support import Support
from racer.errors import UnsupportedGeneration, first_line
from racer.hf.caches import given_cache
from racer.hf.unsupported import is_empty, left_padding

MEDIA = ("mm_token_type_ids", "moe_mm_token_type_ids")
"""Arguments that say of each token which medium it is; 0 is text, for which none is needed."""
TYPES = "token_type_ids"
"""An argument that trees leave out: to BERT that is zeros, and GPT-2 adds what it has learned of 0 to every token."""
KNOWN = {"input_ids", "attention_mask", "position_ids", *CACHE_ARGUMENTS, "use_cache", KEEP, "cache_position"}
KNOWN |= {"return_dict", "output_attentions", "output_hidden_states"}
KNOWN |= {"image_grid_thw", "video_grid_thw", "second_per_grid_ts"}  # of positions, which a step is given
"""What a step is given that is made anew for a tree, or says nothing about the text."""


class _Filled(DynamicCache):  # type: ignore[misc]  # transformers is untyped here
    """Says that it has seen the prompt, and has seen nothing."""

    def __init__(self, slots: int, config: Any) -> None:
        super().__init__(config=config)
        self._slots = slots

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self._slots


def offset_of(model: Any, input_ids: Tensor, arguments: dict[str, Any], support: Support) -> Tensor | None:
    """How much further than its text the positions of new tokens are, for a model that takes trees or chains; see
    :attr:`racer.core.prompt_pieces.PreparedCall.offset`.

    :raises UnsupportedGeneration: every step would be given more than tokens, or it goes on from a cache.
    """
    cache = given_cache(arguments)
    if cache is not None and cache.get_seq_length():
        raise UnsupportedGeneration("a prompt with more than text goes on from a cache that has seen tokens")
    step = _next_step(model, input_ids, arguments)
    for name, value in step.items():
        text = name in KNOWN or is_empty(value) or (name in (*MEDIA, TYPES) and not bool(value.any()))
        if not text or (name == TYPES and support.plan is not None and not _is_default(model, input_ids)):
            raise UnsupportedGeneration(f"model argument {name!r} goes into every step: leave it out")
    mask = step.get("attention_mask")
    if mask is not None and (not isinstance(mask, Tensor) or mask.dim() != 2):
        raise UnsupportedGeneration(f"{type(model).__name__} makes attention masks of its own for such a prompt")
    if support.plan is None:  # chains are given positions by the model
        return None
    offset = _offset(input_ids, arguments, step.get("position_ids"))
    if offset is not None:
        _refuse_offset(offset, support)
    return offset


def _is_default(model: Any, input_ids: Tensor) -> bool:
    """Whether a model that is given no types of tokens takes them for 0."""
    token = input_ids[:1, -1:]
    with torch.no_grad():
        without, zeros = (
            model(input_ids=token, use_cache=False, **types).logits for types in ({}, {TYPES: torch.zeros_like(token)})
        )
    return torch.equal(without, zeros)


def _next_step(model: Any, input_ids: Tensor, arguments: dict[str, Any]) -> dict[str, Any]:
    """What the model's forward would be given for one token after the prompt."""
    seen = _Filled(input_ids.shape[1], model.config.get_text_config(decoder=True))
    own = {name: value for name, value in arguments.items() if name not in CACHE_ARGUMENTS}
    try:
        after = model._update_model_kwargs_for_generation({}, {**own, CACHE: seen}, num_new_tokens=1)
        longer = torch.cat([input_ids, input_ids[:, -1:]], dim=1)
        step: dict[str, Any] = model.prepare_inputs_for_generation(longer, next_sequence_length=1, **after)
    except Exception as failure:  # it may be prepared in a way that only transformers' loop knows
        name = type(failure).__name__
        raise UnsupportedGeneration(f"preparing a step after it failed with {name}: {first_line(failure)}") from failure
    return step


def _offset(input_ids: Tensor, arguments: dict[str, Any], position: Tensor | None) -> Tensor | None:
    """``[B, 1]`` or ``[planes, B, 1]``; None if it is 0.

    :param position: ``[B, 1]`` or ``[planes, B, 1]``, of the next token; None if it is counted by the cache.
    """
    if position is None:
        return None
    rows, width = input_ids.shape
    padding = input_ids.new_tensor(left_padding(input_ids, arguments.get("attention_mask"), width))
    offset: Tensor = (position - (width - padding)[:, None]).expand(*position.shape[:-2], rows, 1)
    return offset if bool(offset.any()) else None


def _refuse_offset(offset: Tensor, support: Support) -> None:
    """Say no to positions that trees of this model cannot have.

    :raises UnsupportedGeneration: other planes than the model was tried with, or further than a table may go.
    """
    assert support.plan is not None
    planes = len(offset) if offset.dim() == 3 else None
    if planes != support.plan.planes:
        raise UnsupportedGeneration("its positions are of another shape than those of a text prompt")
    ends = support.plan.positions is not None or support.border is not None
    if ends and bool((offset > 0).any()):
        raise UnsupportedGeneration("its positions run ahead of its tokens, and may run out of the model's table")
