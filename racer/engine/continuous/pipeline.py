"""The logits processors of rows that have nothing to do with one another."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import attrs
import torch
from torch import Tensor

from racer.kernels import vocab_search
from racer.step.request import Request
from racer.step.view import LogitsPipeline, PlacedPipeline, Prefix

Fails = Callable[[Request, Exception], None]
"""Told of a row whose own processors have failed."""


class Row(NamedTuple):
    """How one row's tokens are chosen."""

    request: Request
    pipeline: LogitsPipeline
    """Of this row alone, as a batch of one."""
    do_sample: bool

    @property
    def key(self) -> Hashable | None:
        """Equal for rows that may be asked together; None if this one may not be."""
        signature = self.pipeline.signature
        return None if signature is None else (signature, self.do_sample)


def joined(rows: Sequence[Row], fails: Fails) -> LogitsPipeline:
    """One pipeline for all rows: that of the first, where all do the same."""
    keys = {row.key for row in rows}
    return rows[0].pipeline if len(rows) == 1 or (len(keys) == 1 and None not in keys) else JoinedPipeline(rows, fails)


class JoinedPipeline:
    """Asks each row's own processors about its places. Some rows may sample and others not.

    Where a row's processors fail, that row has failed, and the others go on.
    """

    context_free = False

    def __init__(self, rows: Sequence[Row], fails: Fails) -> None:
        self._rows, self._fails = tuple(rows), fails
        self.remembers = any(row.pipeline.remembers for row in rows)
        self._samples = any(row.do_sample for row in rows)

    @property
    def signature(self) -> Hashable | None:
        return None

    def batch(self, logits: Tensor) -> Tensor:
        """:raises TypeError: rows differ; ask :meth:`at`."""
        raise TypeError("rows have processors of their own: they must be told which places are asked about")

    def draw(self, logits: Tensor, seeds: Tensor, positions: Tensor) -> Tensor:
        """:raises TypeError: as :meth:`batch`."""
        return self.batch(logits)

    def at(self, prefixes: Sequence[Prefix]) -> PlacedPipeline:
        return _JoinedPlaces(self._rows, prefixes, self._samples, self._fails)

    def likely(self, logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """:param logits: ``[B * n, V]``, the places of each row side by side."""
        places = logits.view(len(self._rows), -1, logits.shape[-1])
        found = [
            (row.pipeline.likely if row.do_sample else vocab_search.likely)(part, k)
            for row, part in zip(self._rows, places, strict=True)
        ]
        ids, probs = zip(*found, strict=True)
        return torch.cat(ids), torch.cat(probs)

    def of_rows(self, rows: Sequence[int]) -> JoinedPipeline:
        return JoinedPipeline([self._rows[row] for row in rows], self._fails)


@attrs.frozen(eq=False)
class _JoinedPlaces:
    rows: Sequence[Row]
    prefixes: Sequence[Prefix]
    samples: bool
    """Whether the tokens of the batch are drawn: then those of greedy rows must be certain."""
    fails: Fails

    def batch(self, logits: Tensor) -> Tensor:
        def ask(row: Row, places: list[int], pipeline: PlacedPipeline) -> Tensor:
            scores = pipeline.batch(logits[places]).float()
            return scores if row.do_sample or not self.samples else _certain(scores)

        nothing = _certain(torch.zeros_like(logits[:1], dtype=torch.float32))
        return self._each(ask, nothing)

    def draw(self, logits: Tensor, seeds: Tensor, positions: Tensor) -> Tensor:
        def ask(row: Row, places: list[int], pipeline: PlacedPipeline) -> Tensor:
            if not row.do_sample:
                return vocab_search.best(pipeline.batch(logits[places]))
            return pipeline.draw(logits[places], seeds[places], positions[places])

        return self._each(ask, torch.zeros_like(positions[:1]))

    def _each(self, ask: Callable[[Row, list[int], PlacedPipeline], Tensor], nothing: Tensor) -> Tensor:
        """What every row's own processors say of its places, in the order of the places.

        :param nothing: the answer for a place of a row that has failed.
        """
        groups: dict[int, list[int]] = {}
        for place, prefix in enumerate(self.prefixes):
            groups.setdefault(prefix.row, []).append(place)
        answers = []
        for number, places in groups.items():
            row, prefixes = self.rows[number], [attrs.evolve(self.prefixes[place], row=0) for place in places]
            try:
                answers.append(ask(row, places, row.pipeline.at(prefixes)))
            except Exception as error:  # users' own code
                self.fails(row.request, error)
                answers.append(nothing.expand(len(places), *nothing.shape[1:]))
        order = torch.tensor([place for places in groups.values() for place in places]).argsort()
        return torch.cat(answers)[order.to(answers[0].device)]


def _certain(scores: Tensor) -> Tensor:
    """Scores ``[M, V]`` with which nothing but the best token can be drawn."""
    best = vocab_search.best(scores)
    return torch.full_like(scores, -torch.inf).scatter(1, best[:, None], 0.0)
