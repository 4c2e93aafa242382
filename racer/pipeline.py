"""Hugging Face logits processors, as verifiers see them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessorList
from transformers.generation import logits_process as hf

CONTEXT_FREE = tuple(
    getattr(hf, name)
    for name in (
        "TemperatureLogitsWarper",
        "TopKLogitsWarper",
        "TopPLogitsWarper",
        "MinPLogitsWarper",
        "TopHLogitsWarper",
        "TypicalLogitsWarper",
        "EpsilonLogitsWarper",
        "EtaLogitsWarper",
        "InfNanRemoveLogitsProcessor",
        "LogitNormalization",
        "SuppressTokensLogitsProcessor",
    )
    if hasattr(hf, name)
)
"""Processors that do not read the prefix. Any other type, subclasses included, is taken to read it."""


class ProcessorPipeline:
    """A list of processors behind :class:`racer.request.LogitsPipeline`.

    :param processors: applied in order, to float32 scores, as ``generate`` does.
    :param batch_size: rows of the batch; processors that read the prefix get a batch of this size.
    """

    def __init__(self, processors: Sequence[Any] = (), batch_size: int = 1) -> None:
        self._processors = LogitsProcessorList(processors)
        self.context_free = all(type(step) in CONTEXT_FREE for step in processors)
        # any processor may hold something by row (padding lengths, allowed tokens), so rows keep their numbers
        self._copies = 1 if self.context_free else batch_size

    def batch(self, logits: Tensor) -> Tensor:
        """Processed scores ``[M, V]``; for context-free pipelines."""
        if not self._processors:
            return logits
        scores: Tensor = self._processors(None, logits.float())
        return scores

    def one(self, prefix: Sequence[int], logits: Tensor, row: int) -> Tensor:
        """Processed scores ``[V]`` after ``prefix``, which stands in all rows, of which ``row`` is read."""
        if not self._processors:
            return logits.float()
        wide = logits.float()[None].repeat(self._copies, 1)
        if self.context_free:
            return self.batch(wide)[0]
        ids = torch.tensor([list(prefix)], device=logits.device).expand(self._copies, -1)
        scores: Tensor = self._processors(ids, wide)
        return scores[row if self._copies > 1 else 0]
