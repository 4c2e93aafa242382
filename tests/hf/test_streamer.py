"""Streamers are put what plain decoding puts them, also where rows advance at different speeds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import TextStreamer

import racer
from racer import DecodeConfig
from racer.hf.streamer import InStep
from racer.step.request import Request, add_tokens, end
from support.tiny_models import batch, tiny
from support.toy_batch import Collects


@pytest.mark.parametrize("compile", ["off", "static"])
@pytest.mark.parametrize(
    "how", [{}, {"eos_token_id": [3, 5, 8, 11]}, {"num_return_sequences": 2, "do_sample": True, "top_k": 1}]
)
def test_rows_of_a_batch_are_shown_in_step(how: dict[str, Any], compile: str) -> None:
    model, streamers = tiny("llama"), (Collects(), Collects())
    how = {**batch(), "max_new_tokens": 25, "do_sample": False} | how
    config = DecodeConfig(drafter="racer", budget=12, compile=compile)
    got = racer.generate(model, config=config, streamer=streamers[0], **how)
    expected = model.generate(streamer=streamers[1], **how)
    assert torch.equal(got, expected)
    assert streamers[0].got == streamers[1].got
    rows = len(got)
    assert [len(piece) for piece in streamers[0].got] == [rows] * (got.shape[1] - 10) + [3], "then comes 'end'"


def test_a_text_streamer_refuses_batches_as_before() -> None:
    for call in (lambda **how: racer.generate(tiny("llama"), **how), tiny("llama").generate):
        with pytest.raises(ValueError, match="only supports batch size 1"):
            call(**batch(), max_new_tokens=3, do_sample=False, streamer=TextStreamer(None))


def test_a_row_that_ends_is_padded_only_when_all_its_tokens_have_come() -> None:
    streamer, requests = Collects(), [Request(prompt=(1,)), Request(prompt=(2,))]
    show = InStep(streamer, requests, pad=0).add
    for request, tokens in zip(requests, ([7, 8], [4, 5, 6]), strict=True):
        add_tokens(request, tokens)
        end(request)  # and the first row's tokens are still on their way
    for token in (4, 5, 6):
        show(1, token)
    assert streamer.got == []
    show(0, 7)
    assert streamer.got == [[7, 4]]
    show(0, 8)
    assert streamer.got == [[7, 4], [8, 5], [0, 6]]
