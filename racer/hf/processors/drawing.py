"""Drawing a token: processors, and noise for the tokens that they leave."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.generation import logits_process as hf

from racer.kernels import truncation
from racer.kernels.gumbel import gumbel_at
from racer.step.verdict import NO_TOKEN

FILTERS: dict[type, Callable[[Any, Tensor], Tensor]] = {
    hf.TopKLogitsWarper: lambda step, scores: truncation.top_k(scores, step.top_k),
    hf.TopPLogitsWarper: lambda step, scores: truncation.top_p(scores, step.top_p, step.min_tokens_to_keep),
    hf.MinPLogitsWarper: lambda step, scores: truncation.min_p(scores, step.min_p, step.min_tokens_to_keep),
}
"""Processors that only drop tokens, and by scores alone: from one and scores ``[V]`` the ids that are kept."""

MANY = 8
"""Rows from which on an accelerator finds top-p's tokens without a sort: it sorts fewer in the time of the launches."""


def process(step: Any, scores: Tensor) -> Tensor:
    """What a context-free processor makes of ``scores [M, V]``."""
    if type(step) is hf.TopPLogitsWarper and scores.device.type != "cpu" and len(scores) >= MANY:
        kept = truncation.top_p_mask(scores, step.top_p, step.min_tokens_to_keep)
        return scores.masked_fill(~kept, step.filter_value)
    processed: Tensor = step(None, scores)
    return processed


def narrowing(processors: Sequence[Any]) -> int:
    """The place of the first filter, if nothing from there on would notice that dropped tokens are gone; else the end.

    What stands before may read prefixes.
    """
    first = next((place for place, step in enumerate(processors) if type(step) in FILTERS), len(processors))
    blind = all(
        type(step) is hf.TemperatureLogitsWarper or (type(step) in FILTERS and step.filter_value == -math.inf)
        for step in processors[first:]
    )
    return first if blind else len(processors)


def draw(processors: Sequence[Any], scores: Tensor, seed: int, position: int) -> Tensor:
    """``[1]`` the token of ``scores [1, V]`` after context-free processors, or :data:`NO_TOKEN`.

    Behind a filter, work is done for the tokens that it leaves.
    """
    tokens, first = torch.arange(scores.shape[1], device=scores.device), narrowing(processors)
    for place, step in enumerate(processors):
        if place >= first and type(step) in FILTERS:
            kept = FILTERS[type(step)](step, scores[0])
            scores, tokens = scores[:, kept], tokens[kept]
        else:
            scores = process(step, scores)
    best = (scores + gumbel_at(seed, position, tokens)).argmax(-1)
    # NaNs and infinities are larger than whatever noise makes of the rest
    return torch.where(scores[0, best].isfinite(), tokens[best], NO_TOKEN)
