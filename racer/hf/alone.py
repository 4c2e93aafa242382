"""Requests that can share no batch with others, decoded by themselves in the engine's thread."""

from __future__ import annotations

from typing import Any

import attrs
import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList
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
            member.send()  # what came of its last step
            return
        member.send()
        member.stopped = member.request.remaining > 0 or member.request.tokens[-1] in spec.stop_tokens

    return decode


def plain_request(call: Call, ids: Tensor, asked: Asked) -> Request:
    """What is known of a call that transformers decodes."""
    given = call.arguments.get("decoder_input_ids")
    width = ids.shape[1]
    if call.model.config.is_encoder_decoder:  # of which the answer does not hold the prompt
        width = 1 if given is None else given.shape[-1]
    new = call.setting("max_new_tokens")
    limit = (call.setting("max_length") or width + 20) - width if new is None else new
    return Request(prompt=(0,) * width, limit=max(int(limit), 1), tenant=asked.tenant)


def decoded_plainly(call: Call, seed: int) -> Alone:
    """Decodes a call as ``model.generate`` does without RACER."""

    def decode(member: Member) -> None:
        criteria = StoppingCriteriaList([*(call.arguments.get("stopping_criteria") or ()), _WhenCancelled(member)])
        more: dict[str, Any] = {"stopping_criteria": criteria}
        if (call.setting("num_beams") or 1) == 1:  # transformers streams no beams
            more["streamer"] = _Streamer(member)
        sequences = decode_plainly(attrs.evolve(call, arguments={**call.arguments, **more}), seed)
        for token in sequences[0, len(member.request.tokens) :].tolist():
            add_token(member.request, token)
        member.send()
        if member.cancelled:
            return
        end(member.request)
        eos = call.setting("eos_token_id")
        ends = set(eos if isinstance(eos, list | tuple) else [eos])
        member.stopped = member.request.remaining > 0 or member.request.tokens[-1] in ends

    return decode


class _WhenCancelled(StoppingCriteria):  # type: ignore[misc]  # transformers is untyped here
    """Ends a call of transformers' whose answer is no longer wanted, beams too."""

    def __init__(self, member: Member) -> None:
        self._member = member

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        return torch.full((len(input_ids),), self._member.cancelled, device=input_ids.device)


class _Streamer(BaseStreamer):  # type: ignore[misc]  # transformers is untyped here
    """Tells a request's stream of tokens that transformers decodes."""

    def __init__(self, member: Member) -> None:
        self._member = member

    def put(self, value: Any) -> None:
        """The prompt ``[1, P]``, which is known, or the next token ``[1]``."""
        if value.dim() == 1:
            add_token(self._member.request, int(value))
            self._member.send()

    def end(self) -> None:
        """All were put."""
