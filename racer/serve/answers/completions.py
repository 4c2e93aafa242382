"""Answers of ``/v1/completions``."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

import attrs

from racer.serve.answer import Answer, Choice
from racer.serve.answers.chunks import runs
from racer.serve.answers.figures import figures, usage
from racer.serve.protocol.completions import CompletionRequest
from racer.serve.scores import TokenNames, of_completion
from racer.serve.text import Unit
from racer.serve.tools import Piece


@attrs.frozen
class CompletionAnswer:
    """One answer, to be told whole or in chunks."""

    body: CompletionRequest
    answer: Answer
    model: str
    names: TokenNames
    id: str = attrs.field(factory=lambda: f"cmpl-{secrets.token_hex(16)}")
    created: int = attrs.field(factory=lambda: int(time.time()))

    async def whole(self) -> dict[str, Any]:
        """All of it at once."""
        found: dict[int, list[Unit]] = {choice.index: [] for choice in self.answer.choices}
        async for choice, pieces in self.answer.events():
            found[choice.index] += _units(pieces or [])
        choices = [self._told(choice, found[choice.index], 0, choice.finish) for choice in self.answer.choices]
        return self._head() | {"choices": choices, "usage": usage(self.answer), "racer": figures(self.answer)}

    async def chunks(self) -> AsyncIterator[dict[str, Any]]:
        """As it comes."""
        left, offsets = len(self.answer.choices), dict.fromkeys(range(len(self.answer.choices)), 0)
        async for choice, pieces in self.answer.events():
            for run in runs(pieces or [], by_kind=self.body.own.show_drafted):
                told = self._told(choice, _units(run), offsets[choice.index], None)
                offsets[choice.index] += len(told["text"])
                if self.body.own.show_drafted:
                    told["racer"] = {"drafted": run[0].drafted}
                yield self._chunk(told)
            if pieces is None:
                left -= 1
                last = self._chunk(self._told(choice, [], 0, choice.finish))
                yield last | ({} if left or self.body.with_usage else self._figures)
        if self.body.with_usage:
            yield self._head() | {"choices": [], "usage": usage(self.answer)} | self._figures

    @property
    def _figures(self) -> dict[str, Any]:
        return {"racer": figures(self.answer)}

    def _head(self) -> dict[str, Any]:
        return {"id": self.id, "object": "text_completion", "created": self.created, "model": self.model}

    def _chunk(self, told: dict[str, Any]) -> dict[str, Any]:
        return self._head() | {"choices": [told]} | ({"usage": None} if self.body.with_usage else {})

    def _told(self, choice: Choice, units: list[Unit], offset: int, finish: str | None) -> dict[str, Any]:
        scores = None
        if self.body.scores is not None and units:
            starts = [offset]
            for unit in units[:-1]:
                starts.append(starts[-1] + len(unit.text))
            pairs = zip(starts, (unit.scores for unit in units), strict=True)
            scores = of_completion(pairs, self.names)
        text = "".join(unit.text for unit in units)
        return {"index": choice.index, "text": text, "logprobs": scores, "finish_reason": finish}


def _units(pieces: list[Piece]) -> list[Unit]:
    return [piece for piece in pieces if isinstance(piece, Unit)]
