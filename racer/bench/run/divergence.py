"""How close a call it was where an answer parts from the plain one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers.generation.logits_process import TemperatureLogitsWarper, TopPLogitsWarper

from racer.bench.run.prompts import Talk
from racer.bench.settings import Settings
from racer.bench.trials import Measured
from racer.hf.processors import ProcessorPipeline
from racer.kernels.gumbel import gumbel_at
from racer.loading.loaded_model import LoadedModel, first_difference, top2_gap


def gaps(
    loaded: LoadedModel, settings: Settings, talks: Sequence[Talk], plain: Measured, measured: Measured
) -> list[float | None]:
    """Of each row whose tokens differ from the plain ones: see :func:`gap`."""
    parted = [first_difference(*pair) for pair in zip(measured.tokens, plain.tokens, strict=True)]
    seeds = plain.seeds or [0] * len(parted)
    return [
        gap(loaded, settings, talk, tokens[:place], seed)
        for talk, tokens, place, seed in zip(talks, plain.tokens, parted, seeds, strict=True)
        if place is not None
    ]


def gap(loaded: LoadedModel, settings: Settings, talk: Talk, common: list[int], seed: int) -> float | None:
    """How far the plain model's two best choices after ``talk`` and ``common`` are apart.

    None where top-p leaves but one of them, or there is not memory enough for one forward pass over all tokens.
    """
    try:
        found = top2_gap(choice_scores(loaded, settings, talk, common, seed))
    except RuntimeError:
        return None
    return found if found < float("inf") else None


def choice_scores(loaded: LoadedModel, settings: Settings, talk: Talk, common: list[int], seed: int) -> Tensor:
    """``[V]`` what the plain model's next token is the argmax of: logits, or processed scores with their noise."""
    ids = loaded.encode(talk)["input_ids"][0].tolist() + common
    scores = loaded.next_logits(ids)
    if not settings.sample:
        return scores
    warpers = [TemperatureLogitsWarper(settings.temperature), TopPLogitsWarper(settings.top_p)]
    scores = ProcessorPipeline(warpers, 1).batch(scores[None])[0]
    return scores + gumbel_at(seed, len(ids), torch.arange(len(scores), device=scores.device))
