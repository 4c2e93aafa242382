"""The processors of a call at certain places, whose prefixes are known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import torch
from torch import Tensor
from transformers import LogitsProcessorList

from racer.hf.processors.drawing import draw, narrowing, process
from racer.hf.processors.kinds import Kind
from racer.hf.processors.prefix_readers import BATCHED
from racer.hf.processors.texts import Text, Texts
from racer.step.view import Prefix


@attrs.frozen(eq=False)
class Step:
    """One processor of a call."""

    processor: Any
    kind: Kind
    rows: Sequence[Any] | None = None
    """Each row's own, if rows have their own."""


@attrs.frozen(eq=False)
class PlacedProcessors:
    """See :class:`racer.step.view.PlacedPipeline`."""

    steps: Sequence[Step]
    rows: Sequence[int]
    """``[M]`` the rows' numbers in the whole batch."""
    prefixes: Sequence[Prefix]
    """``[M]``"""
    known: dict[int, Text]
    """The rows' texts, as far as they were asked for; grows."""

    def batch(self, logits: Tensor) -> Tensor:
        return self._processed(self.steps, logits)

    def draw(self, logits: Tensor, seeds: Tensor, positions: Tensor) -> Tensor:
        first = narrowing([step.processor for step in self.steps])
        scores = self._processed(self.steps[:first], logits)
        behind = [step.processor for step in self.steps[first:]]
        keys = zip(scores[:, None], seeds.tolist(), positions.tolist(), strict=True)
        return torch.cat([draw(behind, row, seed, position) for row, seed, position in keys])

    def _processed(self, steps: Sequence[Step], logits: Tensor) -> Tensor:
        """Scores ``[M, V]`` after these steps."""
        texts = Texts(self.known, self.rows, self.prefixes, logits.device)
        scores, ours = logits.to(torch.float32, copy=True), True
        for step in steps:
            if step.kind is Kind.CONTEXT_FREE:
                scores, ours = process(step.processor, scores), True
            elif type(step.processor) in BATCHED:
                # another processor may have kept what it gave us, so that it must not be written into
                scores = scores.contiguous() if ours else scores.clone()
                scores, ours = BATCHED[type(step.processor)](step.processor, texts, scores), True
            else:
                scores, ours = self._asked(step, texts, scores), False
        return scores

    def _asked(self, step: Step, texts: Texts, scores: Tensor) -> Tensor:
        """By its own ``__call__``: for equally long prefixes together, or row by row where it is each row's own."""
        groups = texts.groups() if step.rows is None else [[place] for place in range(len(scores))]
        answers = []
        for group in groups:
            processor = step.processor if step.rows is None else step.rows[self.rows[group[0]]]
            own = scores if len(group) == len(scores) else scores[group]
            # a list looks at the signature, as in generate
            answers.append(LogitsProcessorList([processor])(texts.stacked(group), own))
        if len(answers) == 1:
            whole: Tensor = answers[0]
            return whole
        order = torch.tensor([place for group in groups for place in group], device=scores.device).argsort()
        return torch.cat(answers)[order]
