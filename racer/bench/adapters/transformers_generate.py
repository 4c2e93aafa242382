"""transformers' own decoding, as its users call it, watched from outside."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria

from racer.bench.adapters.base import Adapter
from racer.bench.meters import now
from racer.bench.trials import Measured
from racer.loading.loaded_model import LoadedModel


class Probe(StoppingCriteria):  # type: ignore[misc]  # transformers is untyped here
    """Stops nothing; notes the time and the length of the text after every forward pass, and how wide that was."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.lengths: list[int] = []
        self.widths: list[int] = []

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        if len(self.times) < len(self.widths):  # transformers before 5.20 asks about drafts too, without a forward pass
            self.times.append(time.perf_counter() if self.times else now(input_ids.device))
            self.lengths.append(input_ids.shape[1])
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)

    def before_forward(self, module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        """A forward hook for models."""
        ids = kwargs.get("input_ids", args[0] if args else None)
        self.widths.append(ids.shape[1] if ids is not None else 1)


class TransformersAdapter(Adapter):
    """``model.generate``, plain or with prompt lookup of so many tokens."""

    def __init__(self, loaded: LoadedModel, sampling: dict[str, Any], lookup: int) -> None:
        super().__init__(loaded, sampling)
        self._lookup = lookup

    def forget(self) -> None:
        """There is nothing that transformers keeps."""

    def answer(self, inputs: dict[str, Tensor], limit: int, seed: int) -> Measured:
        probe = Probe()
        extra = {"prompt_lookup_num_tokens": self._lookup} if self._lookup else {}
        hook = self.loaded.model.register_forward_pre_hook(probe.before_forward, with_kwargs=True)
        try:
            sequences, began, seconds = self.clocked(
                self.loaded.model.generate, inputs, limit, seed, stopping_criteria=[probe], **extra
            )
        finally:
            hook.remove()
        width = inputs["input_ids"].shape[1]
        tokens = self.trimmed(sequences, width, limit)
        lengths = self._accept_lengths(probe, width, tokens)
        return Measured(
            tokens=tokens,
            accept_lengths=lengths,
            drafted=sum(columns - 1 for columns in probe.widths[1:]),
            kept=sum(length - 1 for row in lengths for length in row),
            seconds=seconds,
            first_token_seconds=probe.times[0] - began,
            nodes=probe.widths[1:],
            step_milliseconds=[(after - before) * 1e3 for before, after in pairwise(probe.times)],
        )

    def _accept_lengths(self, probe: Probe, width: int, tokens: list[list[int]]) -> list[list[int]]:
        """The first forward pass scores the prompt, and with prompt lookup a draft too: it is no step of its own."""
        if not self._lookup:
            return [[1] * (len(row) - 1) for row in tokens]
        lengths = [after - before for before, after in pairwise(probe.lengths)]
        over = probe.lengths[-1] - width - len(tokens[0])  # what was accepted behind the end token
        return [lengths if over <= 0 or not lengths else [*lengths[:-1], lengths[-1] - over]]
