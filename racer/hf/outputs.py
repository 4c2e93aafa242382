"""What ``return_dict_in_generate=True`` gives beside the tokens, as transformers gives it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import GenerationConfig

from racer.engine.recording import ScoreRecord


def score_record(settings: GenerationConfig, rows: int) -> ScoreRecord | None:
    """Where a call's scores are to be kept; None where nobody asked for them."""
    logits, scores = bool(settings.output_logits), bool(settings.output_scores)
    if not settings.return_dict_in_generate or not (logits or scores):
        return None
    return ScoreRecord(rows, keeps_logits=logits, keeps_scores=scores)


def score_tuples(record: ScoreRecord | None) -> dict[str, tuple[Tensor, ...]]:
    """``scores`` and ``logits``, as far as they were kept: one ``[B, V]`` in float32 for each new token.

    Where a row has ended before the longest, zeros; transformers has there what the model says after pad tokens.
    """
    if record is None:
        return {}
    kept = {"scores": record.scores} if record.keeps_scores else {}
    if record.keeps_logits:
        kept["logits"] = record.logits
    return {name: _by_token(rows) for name, rows in kept.items()}


def _by_token(rows: Sequence[list[Tensor]]) -> tuple[Tensor, ...]:
    """From each row's ``[V]`` for its own tokens to ``[B, V]`` for each token of the longest row."""
    longest = max(len(row) for row in rows)
    nothing = torch.zeros_like(rows[0][0])
    filled = [row + [nothing] * (longest - len(row)) for row in rows]
    return tuple(torch.stack(places) for places in zip(*filled, strict=True))
