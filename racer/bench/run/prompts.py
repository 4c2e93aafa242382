"""Conversations as batches of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import Tensor

from racer.bench.questions import Question
from racer.errors import ConfigError
from racer.loading.loaded_model import LoadedModel

Talk = list[dict[str, str]]
"""Messages as chat templates take them."""


def encode_batch(
    loaded: LoadedModel, talks: Sequence[Talk], max_new_tokens: int
) -> tuple[dict[str, Tensor], list[int]]:
    """``input_ids`` and ``attention_mask`` (``[B, P]``, padded on the left), and the lengths in tokens.

    :raises ConfigError: a conversation leaves no room for the new tokens in the model's context.
    """
    encoded = [loaded.encode(talk) for talk in talks]
    lengths = [part["input_ids"].shape[1] for part in encoded]
    for length in lengths:
        room = loaded.room(length)
        if room is not None and room < max_new_tokens:
            raise ConfigError(
                f"the prompt has {length} tokens and leaves {room} of the model's context, fewer than the "
                f"{max_new_tokens} new tokens asked for"
            )
    fills = {"input_ids": loaded.pad_token_id or 0, "attention_mask": 0}
    batch = {
        name: torch.cat(
            [
                torch.nn.functional.pad(part[name], (max(lengths) - length, 0), value=fill)
                for part, length in zip(encoded, lengths, strict=True)
            ]
        )
        for name, fill in fills.items()
    }
    return batch, lengths


def has_room(loaded: LoadedModel, prompt: str, max_new_tokens: int) -> bool:
    """Whether the model's context holds the prompt and the new tokens."""
    try:
        encode_batch(loaded, [[{"role": "user", "content": prompt}]], max_new_tokens)
    except ConfigError:
        return False
    return True


def longest(loaded: LoadedModel, questions: Sequence[Question], max_new_tokens: int) -> int:
    """Tokens that the longest conversation may have in the end, as far as the model's context goes."""
    found = 0
    for question in questions:
        talk: Talk = []
        for turn in question.turns:
            talk += [{"role": "user", "content": turn}, {"role": "assistant", "content": ""}]
        with suppress(ConfigError):  # a template that fails does so again where it is written down
            length = loaded.encode(talk[:-1])["input_ids"].shape[1]
            found = max(found, length + len(question.turns) * (max_new_tokens + 1))
    context = getattr(loaded.model.config.get_text_config(), "max_position_embeddings", None)
    return min(found, context) if isinstance(context, int) and context > 0 else found
