"""What shows without a trial that a model cannot be decoded with trees, or by chains."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from transformers import GenerationMixin

from racer.core.model_runner import CACHE_ARGUMENTS
from racer.core.rope import RopeBorder
from racer.core.subject import foreign_loop, replaced_methods

INDEXED = ("index_topk", "indexer_budget")
"""Settings that say how many keys an indexer keeps."""


def unprepared(model: Any) -> str:
    """Why the model must be loaded or prepared otherwise; empty if it need not."""
    if model.training:
        return "the model is in training mode, so its output is random: call model.eval()"
    if model.device.type == "meta":
        return "its first weights are on the meta device, or on disk: load them into memory"
    if _is_spread(model):
        return "its weights are spread over processes, whose passes must be of one size, and RACER chooses by the clock"
    return ""


def _is_spread(model: Any) -> bool:
    """Whether other processes have parts of its weights: tensor parallelism, or fully sharded data."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return False
    from torch.distributed.tensor import DTensor

    return any(isinstance(weight, DTensor) and weight.device_mesh.size() > 1 for weight in model.parameters())


def obstacle(model: Any) -> str:
    """What shows without a trial that a model cannot be decoded with trees; empty if nothing does."""
    if reason := no_loop(model) or stretched(model):
        return reason
    if model.config.is_encoder_decoder:
        return "it has an encoder, and its decoder counts positions by its cache"
    accepted = inspect.signature(model.forward).parameters
    if "position_ids" not in accepted and not any(part.kind is part.VAR_KEYWORD for part in accepted.values()):
        return "its forward takes no position_ids"
    if not any(name in accepted for name in CACHE_ARGUMENTS):
        return f"its forward takes none of {', '.join(CACHE_ARGUMENTS)}"
    return ""


def no_loop(model: Any) -> str:
    """Why a model's decoding loop is not transformers' own; empty if it is."""
    if not isinstance(model, GenerationMixin):
        return "its class has another decoding loop than transformers'"
    if part := foreign_loop(model):
        return f"its class has a {part} of its own in the decoding loop, which is not transformers'"
    if replaced := replaced_methods(model):
        return f"its {replaced[0]} has been replaced, as for prompt tuning"
    return ""


def stretched(model: Any) -> str:
    """Why its positions or keys mean something else in longer passes, however short a text is; empty if they do not."""
    config = model.config.get_text_config()
    if any(getattr(config, name, None) for name in INDEXED):  # the sweep found texts that differ
        return "its indexed attention keeps the best keys alone, and longer passes tell equal scores apart otherwise"
    border = RopeBorder.of(config)
    return "" if border is None else border.fault(0)
