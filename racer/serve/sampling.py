"""From a request's fields to what the engine is told."""

from __future__ import annotations

from typing import Any

from transformers import LogitsProcessorList, StoppingCriteriaList

from racer.loading.loaded_model import sampling_arguments
from racer.serve.processors import CountPenalty, StopText
from racer.serve.protocol.fields import Generation

COLDEST = 1e-6
"""Temperatures below are greedy decoding, which is their limit; scores divided by less would not be finite."""


def sampling(body: Generation) -> dict[str, Any]:
    """How tokens are drawn, in ``generate``'s words; all of it given, so that no default of a model's own comes in."""
    temperature = 1.0 if body.temperature is None else body.temperature
    top_p = 1.0 if body.top_p is None else body.top_p
    sample = temperature >= COLDEST and top_p > 0
    settings = sampling_arguments(sample, temperature, top_p, max(body.top_k or 0, 0), body.min_p)
    if body.repetition_penalty is not None:
        settings["repetition_penalty"] = body.repetition_penalty
    if body.logit_bias:
        settings["sequence_bias"] = {(token,): float(bias) for token, bias in body.logit_bias.items()}
    return settings


def penalties(body: Generation, prompt_tokens: int) -> LogitsProcessorList:
    """Of OpenAI's two, what is asked for."""
    presence, frequency = body.presence_penalty or 0.0, body.frequency_penalty or 0.0
    if not presence and not frequency:
        return LogitsProcessorList()
    return LogitsProcessorList([CountPenalty(prompt_tokens, presence, frequency)])


def criteria(body: Generation, tokenizer: Any, prompt_tokens: int) -> StoppingCriteriaList:
    """What ends an answer beside end tokens and its length."""
    if not body.stops:
        return StoppingCriteriaList()
    return StoppingCriteriaList([StopText(tokenizer, prompt_tokens, body.stops)])


def seed_of(body: Generation, number: int) -> int | None:
    """The seed of a request's answer; the first one's is the request's own."""
    return None if body.seed is None else (body.seed + number) % 2**63
