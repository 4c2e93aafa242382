"""Answers of ``/v1/chat/completions``."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

import attrs

from racer.serve.answer import Answer, Choice
from racer.serve.answers.chunks import joined, runs
from racer.serve.answers.figures import figures, usage
from racer.serve.protocol.chat import ChatRequest
from racer.serve.scores import TokenNames, of_chat
from racer.serve.text import Unit
from racer.serve.tools import CallUnit, Piece


@attrs.frozen
class ChatAnswer:
    """One answer, to be told whole or in chunks."""

    body: ChatRequest
    answer: Answer
    model: str
    names: TokenNames
    id: str = attrs.field(factory=lambda: f"chatcmpl-{secrets.token_hex(16)}")
    created: int = attrs.field(factory=lambda: int(time.time()))

    async def whole(self) -> dict[str, Any]:
        """All of it at once."""
        found: dict[int, list[Piece]] = {choice.index: [] for choice in self.answer.choices}
        async for choice, pieces in self.answer.events():
            found[choice.index] += pieces or []
        choices = [self._choice(choice, found[choice.index]) for choice in self.answer.choices]
        told = self._head("chat.completion") | {"choices": choices}
        return told | {"usage": usage(self.answer), "racer": figures(self.answer)}

    async def chunks(self) -> AsyncIterator[dict[str, Any]]:
        """As it comes."""
        left = len(self.answer.choices)
        for choice in self.answer.choices:
            yield self._chunk(choice, {"role": "assistant", "content": ""})
        async for choice, pieces in self.answer.events():
            for run in runs(pieces or [], by_kind=self.body.own.show_drafted):
                piece = joined(run)
                chunk = self._chunk(choice, _delta(piece))
                if self.body.scores is not None:
                    chunk["choices"][0]["logprobs"] = of_chat(piece.scores, self.names)
                if self.body.own.show_drafted:
                    chunk["choices"][0]["racer"] = {"drafted": piece.drafted}
                yield chunk
            if pieces is None:
                left -= 1
                last = self._chunk(choice, {}) | ({} if left or self.body.with_usage else self._figures)
                last["choices"][0]["finish_reason"] = choice.finish
                yield last
        if self.body.with_usage:
            yield self._head("chat.completion.chunk") | {"choices": [], "usage": usage(self.answer)} | self._figures

    @property
    def _figures(self) -> dict[str, Any]:
        return {"racer": figures(self.answer)}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def _chunk(self, choice: Choice, delta: dict[str, Any]) -> dict[str, Any]:
        told = {"index": choice.index, "delta": delta, "logprobs": None, "finish_reason": None}
        pending = {"usage": None} if self.body.with_usage else {}
        return self._head("chat.completion.chunk") | {"choices": [told]} | pending

    def _choice(self, choice: Choice, pieces: list[Piece]) -> dict[str, Any]:
        text = "".join(piece.text for piece in pieces if isinstance(piece, Unit))
        calls: dict[int, list[CallUnit]] = {}
        for piece in pieces:
            if isinstance(piece, CallUnit):
                calls.setdefault(piece.index, []).append(piece)
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        if calls:
            message["content"] = text if text.strip() else None
            message["tool_calls"] = [_call(joined(run)) for run in calls.values()]
        scores = [score for piece in pieces for score in piece.scores]
        return {
            "index": choice.index,
            "message": message,
            "logprobs": None if self.body.scores is None else of_chat(scores, self.names),
            "finish_reason": choice.finish,
        }


def _delta(piece: Piece) -> dict[str, Any]:
    if isinstance(piece, Unit):
        return {"content": piece.text}
    return {"tool_calls": [{"index": piece.index, **_call(piece)}]}


def _call(piece: Piece) -> dict[str, Any]:
    assert isinstance(piece, CallUnit)
    function = {"arguments": piece.arguments}
    if piece.id is None:
        return {"function": function}
    return {"id": piece.id, "type": "function", "function": {"name": piece.name, **function}}
