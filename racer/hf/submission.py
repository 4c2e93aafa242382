"""What an engine is asked for, checked before anything is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from racer.config import MAX_BUDGET
from racer.core.kept_weights import shape_of
from racer.errors import ConfigError

OWN = (
    *("inputs", "input_ids", "attention_mask", "streamer", "return_dict_in_generate", "output_scores"),
    *("output_logits", "output_attentions", "output_hidden_states", "past_key_values", "cache", "custom_generate"),
)
"""Arguments of ``generate`` that an engine has in a form of its own."""


def checked(
    settings: Mapping[str, Any] | None, seed: int | None, budget: int | None, logprobs: int | None
) -> dict[str, Any]:
    """The settings, when all is well.

    :raises ConfigError: it is not.
    """
    given = dict(settings or {})
    if own := [name for name in OWN if not (given.get(name) is None or given[name] is False)]:
        raise ConfigError(f"an engine takes no {own[0]}: a request has its prompt, and its stream tells what comes")
    given = {name: value for name, value in given.items() if name not in OWN} | {"return_dict_in_generate": False}
    beams = getattr(given.get("generation_config"), "num_return_sequences", None)
    if (given.get("num_return_sequences") or beams or 1) != 1:
        raise ConfigError("a request has one answer: submit it num_return_sequences times, each with its own seed")
    for name, value, least, most in (("seed", seed, 0, 2**63 - 1), ("budget", budget, 1, MAX_BUDGET)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most):
            raise ConfigError(f"{name} must be None or a whole number from {least} to {most}, not {value!r}")
    if logprobs is not None and (isinstance(logprobs, bool) or not isinstance(logprobs, int) or logprobs < 0):
        raise ConfigError(f"logprobs must be None or a whole number from 0, not {logprobs!r}")
    return given


def token_ids(prompt: Sequence[int] | Tensor, model: Any) -> Tensor:
    """``[1, P]``

    :raises ConfigError: no tokens, no row of whole numbers, or none that the model has an embedding of: on a GPU that
        would end the process for all.
    """
    ids = prompt if isinstance(prompt, Tensor) else torch.tensor(list(prompt), dtype=torch.int64)
    ids = ids[None] if ids.dim() == 1 else ids
    if ids.dim() != 2 or len(ids) != 1 or ids.shape[1] < 1 or ids.is_floating_point():
        raise ConfigError(f"a prompt is one row of token ids, at least one of them, not of shape {tuple(ids.shape)}")
    with suppress(NotImplementedError, AttributeError):  # models whose embeddings have no weights of that name
        size = int(shape_of(model.get_input_embeddings())[0])
        if not 0 <= int(ids.min()) <= int(ids.max()) < size:
            raise ConfigError(f"token ids are from 0 to {size - 1}, not {int(ids.min())} to {int(ids.max())}")
    return ids.to(device=model.device, dtype=torch.int64)
