"""What ``return_dict_in_generate=True`` gives beside the tokens, as transformers gives it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers.generation import GenerateDecoderOnlyOutput, GenerateEncoderDecoderOutput

from racer.engine.recording import ScoreRecord
from racer.step.request import Request
from racer.step.stats import DecodeStats


class GenerateOutput(GenerateDecoderOnlyOutput):  # type: ignore[misc]  # transformers is untyped here
    """What ``return_dict_in_generate=True`` gives: transformers' own output, with :attr:`racer_stats`."""

    racer_stats: DecodeStats | None = None
    """None where the call was decoded plainly."""


class EncoderDecoderOutput(GenerateEncoderDecoderOutput):  # type: ignore[misc]  # transformers is untyped here
    """The same of a model that has an encoder."""

    racer_stats: DecodeStats | None = None
    """None where the call was decoded plainly."""


def score_record(settings: GenerationConfig, rows: int) -> ScoreRecord | None:
    """Where a call's scores are to be kept; None where nobody asked for them."""
    logits, scores = bool(settings.output_logits), bool(settings.output_scores)
    if not settings.return_dict_in_generate or not (logits or scores):
        return None
    return ScoreRecord(rows, keeps_logits=logits, keeps_scores=scores)


def score_tuples(record: ScoreRecord | None, requests: Sequence[Request]) -> dict[str, tuple[Tensor, ...]]:
    """``scores`` and ``logits``, as far as they were kept: one ``[B, V]`` in float32 for each new token.

    Where a row has ended before the longest, zeros; transformers has there what the model says after pad tokens.
    """
    if record is None:
        return {}
    kept = {"scores": record.scores} if record.keeps_scores else {}
    if record.keeps_logits:
        kept["logits"] = record.logits
    counts = [len(request.emitted) for request in requests]  # a row's last tokens may have been taken back
    return {
        name: _by_token([row[:count] for row, count in zip(rows, counts, strict=True)]) for name, rows in kept.items()
    }


def _by_token(rows: Sequence[list[Tensor]]) -> tuple[Tensor, ...]:
    """From each row's ``[V]`` for its own tokens to ``[B, V]`` for each token of the longest row."""
    longest = max(len(row) for row in rows)
    nothing = torch.zeros_like(rows[0][0])
    filled = [row + [nothing] * (longest - len(row)) for row in rows]
    return tuple(torch.stack(places) for places in zip(*filled, strict=True))
