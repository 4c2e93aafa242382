"""Hugging Face logits processors, as verifiers see them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessorList
from transformers.generation import logits_process as hf

from racer.kernels import truncation, vocab_search
from racer.kernels.gumbel import gumbel_at

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

CAPTURABLE = (
    hf.TemperatureLogitsWarper,
    hf.TopKLogitsWarper,
    hf.TopPLogitsWarper,
    hf.MinPLogitsWarper,
    hf.LogitNormalization,
)
"""Context-free processors that are functions of the scores and their own plain settings, and never ask the host."""

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

FILTERS: dict[type, Callable[[Any, Tensor], Tensor]] = {
    hf.TopKLogitsWarper: lambda step, scores: truncation.top_k(scores, step.top_k),
    hf.TopPLogitsWarper: lambda step, scores: truncation.top_p(scores, step.top_p, step.min_tokens_to_keep),
    hf.MinPLogitsWarper: lambda step, scores: truncation.min_p(scores, step.min_p, step.min_tokens_to_keep),
}
"""Processors that only drop tokens, and by scores alone: from one and scores ``[V]`` the ids that are kept."""

MANY = 8
"""Rows from which on an accelerator finds top-p's tokens without a sort: it sorts fewer in the time of the launches."""


class ProcessorPipeline:
    """A list of processors behind :class:`racer.step.view.LogitsPipeline`.

    :param processors: applied in order, to float32 scores, as ``generate`` does.
    :param batch_size: rows of the batch; processors that read the prefix get a batch of this size.
    """

    def __init__(self, processors: Sequence[Any] = (), batch_size: int = 1) -> None:
        self._processors = LogitsProcessorList(processors)
        self.context_free = all(type(step) in CONTEXT_FREE for step in processors)
        free = all(type(step) in (*CONTEXT_FREE, *ROW_FREE, hf.PrefixConstrainedLogitsProcessor) for step in processors)
        # others may hold something by row (padding lengths, say), so rows keep their numbers
        self._copies = 1 if free else batch_size
        self._rows: Sequence[int] = range(batch_size)
        """Which rows of the whole batch are left."""
        self._narrows = _narrows(processors)

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
            if type(step) is hf.TopPLogitsWarper and scores.device.type != "cpu" and len(scores) >= MANY:
                kept = truncation.top_p_mask(scores, step.top_p, step.min_tokens_to_keep)
                scores = scores.masked_fill(~kept, step.filter_value)
            else:
                scores = step(None, scores)
        return scores

    def draw(self, logits: Tensor, seeds: Tensor, positions: Tensor) -> Tensor:
        """``[M]`` the tokens of largest processed score plus noise, for ``logits [M, V]``; for context-free pipelines.

        Each row is drawn on its own, so its token cannot depend on the rows beside it, and the vocabulary is not
        sorted. On an accelerator this would synchronise: how many tokens a filter leaves is not known to the host.

        :param seeds: ``[M]`` int64.
        :param positions: ``[M]`` int64: those of the tokens to draw.
        """
        rows = zip(logits, seeds.tolist(), positions.tolist(), strict=True)
        return torch.cat([self._draw_row(row[None], seed, position) for row, seed, position in rows])

    def _draw_row(self, logits: Tensor, seed: int, position: int) -> Tensor:
        """``[1]`` the token of ``logits [1, V]``; behind a filter, work is done for the tokens that it leaves."""
        scores, tokens = logits.float(), torch.arange(logits.shape[1], device=logits.device)
        for step in self._processors:
            if self._narrows and type(step) in FILTERS:
                kept = FILTERS[type(step)](step, scores[0])
                scores, tokens = scores[:, kept], tokens[kept]
            else:
                scores = step(None, scores)
        return tokens[(scores + gumbel_at(seed, position, tokens)).argmax(-1)]

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

    def one(self, prefix: Sequence[int], logits: Tensor, row: int) -> Tensor:
        """Processed scores ``[V]`` after ``prefix``, which stands in all rows, of which ``row`` is read.

        Processors see the whole batch, also when some of its rows have left.
        """
        if not self._processors:
            return logits.float()
        wide = logits.float()[None].repeat(self._copies, 1)
        if self.context_free:
            return self.batch(wide)[0]
        row = self._rows[row]
        ids = torch.tensor([list(prefix)], device=logits.device).expand(self._copies, -1)
        for step in self._processors:
            if type(step) is hf.PrefixConstrainedLogitsProcessor:
                step = _for_row(step, row)  # its function must not be asked about rows with another row's prefix
            wide = step(ids, wide)
        return wide[row if self._copies > 1 else 0]

    def of_rows(self, rows: Sequence[int]) -> ProcessorPipeline:
        left = copy.copy(self)
        left._rows = [self._rows[row] for row in rows]
        return left


def _narrows(processors: Sequence[Any]) -> bool:
    """Whether there is a filter, and nothing from the first one on would notice that dropped tokens are gone."""
    first = next((place for place, step in enumerate(processors) if type(step) in FILTERS), len(processors))
    return first < len(processors) and all(
        type(step) is hf.TemperatureLogitsWarper or (type(step) in FILTERS and step.filter_value == -math.inf)
        for step in processors[first:]
    )


def _for_row(step: Any, row: int) -> Any:
    """A prefix constraint that asks its function about ``row``, whatever row it is applied to."""
    allowed = step._prefix_allowed_tokens_fn
    return hf.PrefixConstrainedLogitsProcessor(lambda _, prefix: allowed(row, prefix), 1)
