"""What the run says about answers, where their lines say nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import xxhash

from racer.batch.asked import Asked, Message
from racer.batch.fields import Wanted
from racer.loading.loaded_model import LoadedModel, sampling_arguments

Stopping = Callable[[Any, int, Sequence[str]], Any]
"""``stopping(tokenizer, prompt_tokens, stops)``: ``stopping_criteria`` that see the answer only, as transformers' own
``stop_strings`` look at the prompt's end too."""


@attrs.frozen(kw_only=True)
class Defaults:
    """The settings that shape answers; those that only shape speed are not among them."""

    model: str | None
    dtype: str | None
    weights: str
    """What :func:`racer.loading.models.weights_of` says."""
    max_new_tokens: int
    temperature: float | None
    top_p: float | None
    seed: int
    system: str | None
    raw: bool

    @property
    def digest(self) -> str:
        """Equal for equal settings: answers of two runs may be mixed in one file if this is the same."""
        model = os.path.realpath(self.model) if self.model and os.path.exists(self.model) else self.model
        return xxhash.xxh3_64_hexdigest(json.dumps(attrs.asdict(self) | {"model": model}, sort_keys=True).encode())

    def messages(self, given: Sequence[Message]) -> list[Message]:
        """A conversation with the run's system prompt, if it has none of its own."""
        if self.system is None or any(message["role"] == "system" for message in given):
            return list(given)
        return [{"role": "system", "content": self.system}, *given]

    def encode(self, asked: Asked, loaded: LoadedModel) -> list[int]:
        """The prompt's tokens.

        :raises ConfigError: the chat template fails.
        """
        if isinstance(asked.prompt, list):
            return asked.prompt
        if asked.prompt is not None:
            encoded = loaded.encode([{"role": "user", "content": asked.prompt}], raw=True)
        else:
            encoded = loaded.encode(self.messages(asked.messages or ()), raw=self.raw)
        ids: list[int] = encoded["input_ids"][0].tolist()
        return ids

    def samples(self, wanted: Wanted) -> bool:
        """Whether an answer is sampled; without any temperature it is greedy."""
        return bool(self.temperature if wanted.temperature is None else wanted.temperature)

    def seed_of(self, wanted: Wanted, key: str) -> int | None:
        """An answer's own seed: the one in its line, or one that the run's seed and the id make; None if greedy."""
        if not self.samples(wanted):
            return None
        if wanted.seed is not None:
            return wanted.seed
        return xxhash.xxh3_64_intdigest(key.encode(), seed=self.seed) >> 1

    def arguments(
        self, wanted: Wanted, loaded: LoadedModel, prompt_tokens: int, stopping: Stopping, *, most: int
    ) -> dict[str, Any]:
        """What the engine takes; the length is cut to the room in the model's context.

        :param stopping: makes the criteria that end an answer at its stop strings.
        :param most: tokens that prompt and answer may have in the engine: where the line says no length, it is cut to
            that too.
        :raises ConfigError: the prompt is empty, or leaves no room.
        """
        room = loaded.room(prompt_tokens)
        limit = wanted.max_new_tokens or max(1, min(self.max_new_tokens, most - prompt_tokens))
        sample = self.samples(wanted)
        arguments = sampling_arguments(
            sample,
            self.temperature if wanted.temperature is None else wanted.temperature,
            self.top_p if wanted.top_p is None else wanted.top_p,
            wanted.top_k,
            wanted.min_p,
        )
        arguments |= {
            "max_new_tokens": limit if room is None else min(limit, room),
            "pad_token_id": loaded.pad_token_id,
        }
        if wanted.repetition_penalty is not None:
            arguments["repetition_penalty"] = wanted.repetition_penalty
        if wanted.stop:
            arguments["stopping_criteria"] = stopping(loaded.tokenizer, prompt_tokens, wanted.stop)
        return arguments
