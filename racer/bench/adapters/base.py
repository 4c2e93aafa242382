"""What all methods share: one call by the clock, and the answers cut out of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from racer.bench.meters import now
from racer.bench.trials import Measured
from racer.loading.loaded_model import LoadedModel


class Adapter:
    """One method, ready to answer prompts.

    :param sampling: the arguments of ``generate`` that say how tokens are chosen.
    """

    in_process = True
    """Whether this process decodes, so that its memory tells of the method."""

    def __init__(self, loaded: LoadedModel, sampling: dict[str, Any]) -> None:
        self.loaded = loaded
        self.sampling = sampling
        ends = loaded.model.generation_config.eos_token_id
        self._ends = set(ends if isinstance(ends, list) else [] if ends is None else [ends])

    def answer(self, inputs: dict[str, Tensor], limit: int, seed: int) -> Measured:
        """Decode ``inputs`` (``[B, P]``, padded on the left) for at most ``limit`` new tokens a row."""
        raise NotImplementedError

    def forget(self) -> None:
        """Drop all that was learned from earlier prompts."""
        raise NotImplementedError

    def close(self) -> None:
        """Release what outlives this process's memory; :meth:`answer` may be called again."""

    def clocked(
        self, generate: Callable[..., Any], inputs: dict[str, Tensor], limit: int, seed: int, **extra: Any
    ) -> tuple[Any, float, float]:
        """What ``generate`` gave, when it was called, and the seconds it took; the device is waited for."""
        device = self.loaded.model.device
        torch.manual_seed(seed)
        began = now(device)
        output = generate(
            **inputs, **self.sampling, max_new_tokens=limit, pad_token_id=self.loaded.pad_token_id, **extra
        )
        return output, began, now(device) - began

    def trimmed(self, sequences: Tensor, prompt: int, limit: int) -> list[list[int]]:
        """At most ``limit`` new tokens of each row, up to its end token."""
        return [self.cut(row) for row in sequences[:, prompt : prompt + limit].tolist()]

    def cut(self, row: list[int]) -> list[int]:
        """Up to its end token."""
        return row[: next((i + 1 for i, token in enumerate(row) if token in self._ends), len(row))]
