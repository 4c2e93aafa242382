"""Requests that can share no batch with others, decoded by themselves in the engine's thread."""

from __future__ import annotations

from typing import Any

import attrs
from torch import Tensor
from transformers.generation import BaseStreamer

from racer.engine.continuous.member import Alone, Member
from racer.engine.decoder import BatchDecoder
from racer.engine.spec import BatchSpec
from racer.hf.batch_spec import Asked
from racer.hf.call import Call
from racer.hf.plain import decode_plainly
from racer.step.request import Request, add_token, end


class _Cancelled(Exception):
    """Its answer is no longer wanted."""


def decoded_by_itself(decoder: BatchDecoder | None, spec: BatchSpec) -> Alone:
    """Decodes a batch of one row with RACER: chains, images and the like."""
    assert decoder is not None

    def decode(member: Member) -> None:
        def emit(_: int, token: int) -> None:
            if member.cancelled:
                raise _Cancelled
            member.send()

        try:
            member.stats = decoder.decode(attrs.evolve(spec, emit=emit))
        except _Cancelled:
            return
        member.send()
        member.stopped = member.request.remaining > 0 or member.request.tokens[-1] in spec.stop_tokens

    return decode


def plain_request(call: Call, ids: Tensor, asked: Asked) -> Request:
    """What is known of a call that transformers decodes."""
    width, new = ids.shape[1], call.setting("max_new_tokens")
    limit = (call.setting("max_length") or width + 20) - width if new is None else new
    return Request(prompt=tuple(ids[0].tolist()), limit=max(int(limit), 1), tenant=asked.tenant)


def decoded_plainly(call: Call, seed: int) -> Alone:
    """Decodes a call as ``model.generate`` does without RACER."""

    def decode(member: Member) -> None:
        watched = (call.setting("num_beams") or 1) == 1  # transformers streams no beams
        streamer = {"streamer": _Streamer(member)} if watched else {}
        try:
            sequences = decode_plainly(attrs.evolve(call, arguments={**call.arguments, **streamer}), seed)
        except _Cancelled:
            return
        for token in sequences[0, len(member.request.tokens) :].tolist():
            add_token(member.request, token)
        member.send()
        end(member.request)
        eos = call.setting("eos_token_id")
        ends = set(eos if isinstance(eos, list | tuple) else [eos])
        member.stopped = member.request.remaining > 0 or member.request.tokens[-1] in ends

    return decode


class _Streamer(BaseStreamer):  # type: ignore[misc]  # transformers is untyped here
    """Tells a request's stream of tokens that transformers decodes."""

    def __init__(self, member: Member) -> None:
        self._member = member

    def put(self, value: Any) -> None:
        """The prompt ``[1, P]``, which is known, or the next token ``[1]``."""
        if self._member.cancelled:
            raise _Cancelled
        if value.dim() == 1:
            add_token(self._member.request, int(value))
            self._member.send()

    def end(self) -> None:
        """All were put."""
