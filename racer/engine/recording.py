"""The scores of emitted tokens, kept for whoever asked for them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import attrs
import torch
from torch import Tensor

from racer.step.request import Request
from racer.step.view import LogitsPipeline


class RecordingPipeline:
    """A pipeline that remembers what it gave for each prefix, so that no processor has to be asked twice.

    :param inner: does the work.
    :param rows: numbers, in the whole batch, of the rows that are left.
    """

    def __init__(self, inner: LogitsPipeline, rows: Sequence[int]) -> None:
        self._inner = inner
        self.context_free = inner.context_free
        self._rows = tuple(rows)
        self._given: dict[tuple[int, tuple[int, ...]], Tensor] = {}
        """By row of the whole batch and prefix: processed scores ``[V]`` of the step that runs."""

    @property
    def signature(self) -> Hashable | None:
        return self._inner.signature

    def batch(self, logits: Tensor) -> Tensor:
        return self._inner.batch(logits)

    def draw(self, logits: Tensor, seeds: Tensor, positions: Tensor) -> Tensor:
        return self._inner.draw(logits, seeds, positions)

    def likely(self, logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
        return self._inner.likely(logits, k)

    def one(self, prefix: Sequence[int], logits: Tensor, row: int) -> Tensor:
        scores = self._inner.one(prefix, logits, row)
        self._given[self._rows[row], tuple(prefix)] = scores
        return scores

    def of_rows(self, rows: Sequence[int]) -> RecordingPipeline:
        return RecordingPipeline(self._inner.of_rows(rows), [self._rows[row] for row in rows])

    def scores(self, prefixes: Sequence[Sequence[int]], logits: Tensor, row: int) -> Tensor:
        """Float32 processed scores ``[n, V]`` of ``logits [n, V]`` after each of ``prefixes``, in batch row ``row``.

        What a verifier has asked for in this step is not computed again.
        """
        if self.context_free:
            return self.batch(logits).float()
        given = [self._given.get((self._rows[row], tuple(prefix))) for prefix in prefixes]
        return torch.stack(
            [
                self._inner.one(prefix, place, row) if known is None else known
                for prefix, place, known in zip(prefixes, logits, given, strict=True)
            ]
        ).float()

    def forget(self) -> None:
        """The step is over."""
        self._given.clear()


@attrs.define(eq=False)
class ScoreRecord:
    """What the model said where tokens were emitted, row by row."""

    rows: int
    keeps_logits: bool
    """Whether the model's own logits are wanted."""
    keeps_scores: bool
    """Whether those after all processors are."""
    logits: list[list[Tensor]] = attrs.field(init=False)
    """For each row and emitted token ``[V]``, float32."""
    scores: list[list[Tensor]] = attrs.field(init=False)
    """The same after all processors."""

    def __attrs_post_init__(self) -> None:
        self.logits, self.scores = [[] for _ in range(self.rows)], [[] for _ in range(self.rows)]

    def add(self, number: int, request: Request, logits: Tensor, pipeline: RecordingPipeline, row: int) -> None:
        """Keep the places of the ``n`` tokens that ``request`` was just given.

        :param number: of the row in the whole batch.
        :param logits: ``[n, V]``
        :param row: where it stands in the batch that is left.
        """
        raw = logits.to(torch.float32, copy=True)
        if self.keeps_logits:
            self.logits[number].extend(raw)
        if self.keeps_scores and pipeline.signature == ():
            self.scores[number].extend(raw)
        elif self.keeps_scores:
            text = [*request.padding, *request.tokens]
            ends = range(len(text) - len(logits), len(text))
            self.scores[number].extend(pipeline.scores([text[:end] for end in ends], logits.clone(), row))
