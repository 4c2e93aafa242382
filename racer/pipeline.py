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

ROW_FREE = (
    hf.MinLengthLogitsProcessor,
    hf.MinNewTokensLengthLogitsProcessor,
    hf.NoRepeatNGramLogitsProcessor,
    hf.NoBadWordsLogitsProcessor,
    hf.SequenceBiasLogitsProcessor,
    hf.ForcedBOSTokenLogitsProcessor,
    hf.ForcedEOSTokenLogitsProcessor,
    hf.ExponentialDecayLengthPenalty,
    hf.SuppressTokensAtBeginLogitsProcessor,
)
"""Processors that read the prefix, but hold nothing by batch row."""


class ProcessorPipeline:
    """A list of processors behind :class:`racer.request.LogitsPipeline`.

    :param processors: applied in order, to float32 scores, as ``generate`` does.
    :param batch_size: rows of the batch; processors that read the prefix get a batch of this size.
    """

    def __init__(self, processors: Sequence[Any] = (), batch_size: int = 1) -> None:
        self._processors = LogitsProcessorList(processors)
        self.context_free = all(type(step) in CONTEXT_FREE for step in processors)
        free = all(type(step) in (*CONTEXT_FREE, *ROW_FREE, hf.PrefixConstrainedLogitsProcessor) for step in processors)
        # others may hold something by row (padding lengths, say), so rows keep their numbers
        self._copies = 1 if free else batch_size

    def batch(self, logits: Tensor) -> Tensor:
        """Processed scores ``[M, V]``; for context-free pipelines."""
        wide = logits.float()  # as generate does, so that ties at this precision are ties here too
        if not self._processors:
            return wide
        scores: Tensor = self._processors(None, wide)
        return scores

    def one(self, prefix: Sequence[int], logits: Tensor, row: int) -> Tensor:
        """Processed scores ``[V]`` after ``prefix``, which stands in all rows, of which ``row`` is read."""
        if not self._processors:
            return logits.float()
        wide = logits.float()[None].repeat(self._copies, 1)
        if self.context_free:
            return self.batch(wide)[0]
        ids = torch.tensor([list(prefix)], device=logits.device).expand(self._copies, -1)
        for step in self._processors:
            if type(step) is hf.PrefixConstrainedLogitsProcessor:
                step = _for_row(step, row)  # its function must not be asked about rows with another row's prefix
            wide = step(ids, wide)
        return wide[row if self._copies > 1 else 0]


def _for_row(step: Any, row: int) -> Any:
    """A prefix constraint that asks its function about ``row``, whatever row it is applied to."""
    allowed = step._prefix_allowed_tokens_fn
    return hf.PrefixConstrainedLogitsProcessor(lambda _, prefix: allowed(row, prefix), 1)
