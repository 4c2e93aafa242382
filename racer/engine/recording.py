"""The scores of emitted tokens, kept for whoever asked for them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import attrs
import torch
from torch import Tensor

from racer.step.request import Request
from racer.step.sampling import sampled
from racer.step.view import LogitsPipeline, PlacedPipeline, Prefix

_Key = tuple[int, tuple[int, ...]]
"""A row of the whole batch and its text, padding included."""


class RecordingPipeline:
    """A pipeline that remembers what it gave for each prefix, so that no processor has to be asked twice.

    :param inner: does the work.
    :param rows: numbers, in the whole batch, of the rows that are left.
    """

    def __init__(self, inner: LogitsPipeline, rows: Sequence[int]) -> None:
        self._inner = inner
        self.context_free, self.remembers = inner.context_free, inner.remembers
        self._rows = tuple(rows)
        self._given: dict[_Key, Tensor] = {}
        """Processed scores ``[V]`` of the step that runs."""

    @property
    def signature(self) -> Hashable | None:
        return self._inner.signature

    def batch(self, logits: Tensor) -> Tensor:
        return self._inner.batch(logits)

    def draw(self, logits: Tensor, seeds: Tensor, positions: Tensor) -> Tensor:
        return self._inner.draw(logits, seeds, positions)

    def likely(self, logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
        return self._inner.likely(logits, k)

    def at(self, prefixes: Sequence[Prefix]) -> PlacedPipeline:
        texts = ([*prefix.request.padding, *prefix.request.tokens, *prefix.path] for prefix in prefixes)
        keys = [(self._rows[prefix.row], tuple(text)) for prefix, text in zip(prefixes, texts, strict=True)]
        return _RecordingPlaces(self._inner.at(prefixes), keys, self._given)

    def of_rows(self, rows: Sequence[int]) -> RecordingPipeline:
        return RecordingPipeline(self._inner.of_rows(rows), [self._rows[row] for row in rows])

    def scores(self, request: Request, logits: Tensor, row: int) -> Tensor:
        """Processed scores ``[n, V]`` of the places ``logits [n, V]`` of a row's last ``n`` tokens.

        What a verifier has asked for in this step is not computed again.
        """
        if self.context_free:
            return self.batch(logits)
        ends = range(len(request.tokens) - len(logits), len(request.tokens))
        return torch.stack([self._one(request, end, place, row) for end, place in zip(ends, logits, strict=True)])

    def _one(self, request: Request, end: int, logits: Tensor, row: int) -> Tensor:
        before = request.tokens[:end]
        known = self._given.get((self._rows[row], (*request.padding, *before)))
        if known is None:  # the verifier looked at logits only
            prefix = Prefix(row, Request(prompt=tuple(before), padding=request.padding))
            known = self._inner.at([prefix]).batch(logits[None])[0]
        return known

    def forget(self) -> None:
        """The step is over."""
        self._given.clear()


@attrs.frozen(eq=False)
class _RecordingPlaces:
    """A placed pipeline whose scores are noted, whichever way they are asked for."""

    _inner: PlacedPipeline
    _keys: Sequence[_Key]
    _given: dict[_Key, Tensor]

    def batch(self, logits: Tensor) -> Tensor:
        scores = self._inner.batch(logits)
        self._given.update(zip(self._keys, scores, strict=True))
        return scores

    def draw(self, logits: Tensor, seeds: Tensor, positions: Tensor) -> Tensor:
        return sampled(self.batch(logits), seeds, positions)  # a processor with a memory must not be asked twice


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
            self.scores[number].extend(pipeline.scores(request, logits.clone(), row))
