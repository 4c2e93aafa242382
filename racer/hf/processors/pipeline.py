"""The logits processors of one call, as verifiers see them."""

from __future__ import annotations

import copy
import math
from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.generation import logits_process as hf

from racer.errors import UnsupportedGeneration
from racer.hf.processors.drawing import FILTERS, draw, process
from racer.hf.processors.kinds import Kind, kind_of
from racer.hf.processors.per_row import check_rows, processors_of_rows
from racer.hf.processors.placed import PlacedProcessors, Step
from racer.hf.processors.texts import Text
from racer.kernels import vocab_search
from racer.step.view import PlacedPipeline, Prefix

CAPTURABLE = (
    hf.TemperatureLogitsWarper,
    hf.TopKLogitsWarper,
    hf.TopPLogitsWarper,
    hf.MinPLogitsWarper,
    hf.LogitNormalization,
)
"""Context-free processors that are functions of the scores and their own plain settings, and never ask the host."""


class ProcessorPipeline:
    """A list of processors behind :class:`racer.step.view.LogitsPipeline`.

    :param processors: applied in order, to float32 scores, as ``generate`` does.
    :param batch_size: rows of the batch.
    :raises UnsupportedGeneration: several rows, and a processor that can only be right if it is asked about all of
        them at once.
    """

    def __init__(self, processors: Sequence[Any] = (), batch_size: int = 1) -> None:
        kinds = [kind_of(step) for step in processors]
        self.context_free = all(kind is Kind.CONTEXT_FREE for kind in kinds)
        self.remembers = not all(kind in (Kind.CONTEXT_FREE, Kind.ROW_WISE) for kind in kinds)
        if batch_size > 1:
            _refuse_together(processors, kinds)
        check_rows(processors, batch_size)
        self._processors, self._kinds, self._batch_size = list(processors), kinds, batch_size
        self._rows: Sequence[int] = range(batch_size)
        """Which rows of the whole batch are left."""
        self._texts: dict[int, Text] = {}
        self._steps: list[Step] = []

    @property
    def signature(self) -> Hashable | None:
        """Equal for pipelines that do the same; None if one of its processors cannot be part of a CUDA graph."""
        if not all(type(step) in CAPTURABLE for step in self._processors):
            return None
        return tuple((type(step).__name__, *sorted(vars(step).items())) for step in self._processors)

    def batch(self, logits: Tensor) -> Tensor:
        """Processed scores ``[M, V]``; for context-free pipelines.

        Without processors these are the logits, bf16 and fp16 as they are: a wider copy would cost more than the search
        in it. float64 is narrowed as ``generate`` does, so that ties at that precision are ties here too.
        """
        if not self._processors:
            return logits.float() if logits.dtype == torch.float64 else logits
        scores = logits.float()
        for step in self._processors:
            scores = process(step, scores)
        return scores

    def draw(self, logits: Tensor, seeds: Tensor, positions: Tensor) -> Tensor:
        """``[M]`` the tokens of largest processed score plus noise, for ``logits [M, V]``; for context-free pipelines.

        Each row is drawn on its own, so its token cannot depend on the rows beside it, and the vocabulary is not
        sorted. On an accelerator this would synchronise: how many tokens a filter leaves is not known to the host.

        :param seeds: ``[M]`` int64.
        :param positions: ``[M]`` int64: those of the tokens to draw.
        """
        rows = zip(logits, seeds.tolist(), positions.tolist(), strict=True)
        return torch.cat([draw(self._processors, row[None].float(), seed, position) for row, seed, position in rows])

    def at(self, prefixes: Sequence[Prefix]) -> PlacedPipeline:
        """The processors after each of M prefixes."""
        if self.context_free:
            return self
        if not self._steps:  # not before decoding has begun, as users' own code is called
            self._steps.extend(self._step(step, kind) for step, kind in zip(self._processors, self._kinds, strict=True))
        rows = [self._rows[prefix.row] for prefix in prefixes]
        return PlacedProcessors(self._steps, rows, prefixes, self._texts)

    def _step(self, processor: Any, kind: Kind) -> Step:
        several = self._batch_size > 1 and kind is Kind.PER_ROW
        return Step(processor, kind, processors_of_rows(processor, self._batch_size) if several else None)

    def likely(self, logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The ``k`` best tokens ``[M, k]`` of each row (best first), and ``[M, k]`` about how likely they are drawn.

        Temperature, top-k, top-p and min-p are accounted for, wherever they stand. Other processors are not: drafters
        need estimates and no more.
        """
        steps = list(self._processors)
        temperature = math.prod(step.temperature for step in steps if type(step) is hf.TemperatureLogitsWarper)
        ids, probs = vocab_search.likely(logits, k, temperature)
        if not any(type(step) in FILTERS for step in steps):
            return ids, probs
        kept, mass = torch.ones_like(probs, dtype=torch.bool), 1.0
        for step in steps:
            if type(step) is hf.TopKLogitsWarper:
                kept &= torch.arange(probs.shape[1], device=probs.device) < step.top_k
            elif type(step) is hf.TopPLogitsWarper:
                kept &= probs.cumsum(-1) - probs < step.top_p
                mass = min(mass, step.top_p)
            elif type(step) is hf.MinPLogitsWarper:
                kept &= probs >= step.min_p * probs[:, :1]
        probs = torch.where(kept, probs, 0)
        seen = probs.sum(-1, keepdim=True)
        cut = ~kept.all(-1, keepdim=True)  # then nothing behind the k best is left
        return ids, probs / torch.where(cut, seen, seen.clamp(min=mass))

    def of_rows(self, rows: Sequence[int]) -> ProcessorPipeline:
        left = copy.copy(self)
        left._rows = [self._rows[row] for row in rows]
        return left


def _refuse_together(processors: Sequence[Any], kinds: Sequence[Kind]) -> None:
    for step, kind in zip(processors, kinds, strict=True):
        if kind is Kind.TOGETHER:
            raise UnsupportedGeneration(
                f"logits processor {type(step).__name__} may keep a memory or look across rows, which is right in "
                "batches only as transformers asks it: pass one prompt at a time, or say what it needs "
                "(racer_row_wise, racer_rows or racer.PerRow: docs/quickstart.md)"
            )
