"""Arguments of ``generate`` that RACER cannot decode with: said, never ignored. See also :mod:`racer.hf.settings`.

Every function raises :class:`racer.errors.UnsupportedGeneration`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from racer.core.model_runner import CACHE_ARGUMENTS
from racer.errors import UnsupportedGeneration

_CARRIED = {
    *("attention_mask", "position_ids", *CACHE_ARGUMENTS, "use_cache", "logits_to_keep", "cache_position"),
    *("output_attentions", "output_hidden_states"),  # judged with the settings: unless returned they change nothing
}
"""Model arguments that the loop makes itself, or has no use for."""


def refuse_arguments(input_ids: Tensor, model_kwargs: dict[str, Any]) -> None:
    """Say no to prompts that are not text in ``input_ids``, and to masks that are not of zeros and ones."""
    if input_ids.dim() != 2:
        raise UnsupportedGeneration(f"input_ids has {input_ids.dim()} dimensions: RACER decodes [batch, tokens]")
    if not input_ids.numel():
        raise UnsupportedGeneration("the prompt has no token: RACER decodes text prompts in input_ids")
    mask = model_kwargs.get("attention_mask")
    if mask is not None and bool(((mask != 0) & (mask != 1)).any()):
        raise UnsupportedGeneration("attention_mask holds other numbers than 0 and 1, which models read in many ways")
    if model_kwargs.get("inputs_embeds") is not None:
        raise UnsupportedGeneration("inputs_embeds are not tokens: drafters look the prompt up in input_ids")


def refuse_device(input_ids: Tensor, device: torch.device) -> None:
    """Say no to a prompt that lies elsewhere than the model: transformers moves it about step by step.

    :param device: the model's.
    """
    if input_ids.device.type != device.type and device.type != "meta":
        raise UnsupportedGeneration(
            f"the prompt is on {input_ids.device} and the model on {device}: move the prompt, inputs.to(model.device)"
        )


def more_than_text(model_kwargs: dict[str, Any]) -> list[str]:
    """Names of model arguments that the loop does not make itself: images, kinds of tokens and the like."""
    return [name for name, value in model_kwargs.items() if name not in _CARRIED and not is_empty(value)]


def is_empty(value: Any) -> bool:
    """Whether an argument says nothing."""
    return value is None or value is False or (isinstance(value, dict | list | tuple) and not value)


def refuse_positions(input_ids: Tensor, model_kwargs: dict[str, Any], unseen: int) -> None:
    """Say no to positions that do not count up behind the padding, in all of their planes.

    :param unseen: slots of a given cache whose tokens are not in ``input_ids``.
    """
    given, mask = model_kwargs.get("position_ids"), model_kwargs.get("attention_mask")
    if given is not None:
        kept = input_ids.new_ones(len(input_ids), unseen + input_ids.shape[1]) if mask is None else mask
        usual = kept.cumsum(-1) - 1
        if given.shape[-2:] != usual.shape or bool(((given != usual) & (kept != 0)).any()):
            raise UnsupportedGeneration("position_ids other than 0, 1, 2, ... are not supported: leave them out")


def left_padding(input_ids: Tensor, attention_mask: Tensor | None, slots: int) -> list[int]:
    """Masked columns at the left of each row.

    :param slots: columns that the mask has to have: those of ``input_ids``, and of a cache whose tokens these lack.
    :raises UnsupportedGeneration: a mask with holes or right padding.
    """
    if attention_mask is None:
        return [0] * len(input_ids)
    if attention_mask.shape != (len(input_ids), slots):
        raise UnsupportedGeneration(
            f"attention_mask has shape {tuple(attention_mask.shape)}, input_ids {tuple(input_ids.shape)}; pass the "
            "whole prompt and its mask"
        )
    kept = attention_mask.bool()
    if bool((kept[:, :-1] & ~kept[:, 1:]).any()) or not bool(kept[:, -1].all()):
        raise UnsupportedGeneration(
            "attention_mask may only hide padding on the left: use padding_side='left' (if you gave no mask, "
            "transformers made one from pad tokens inside the prompt: pass attention_mask)"
        )
    padding: list[int] = (~kept).sum(1).tolist()
    return padding
