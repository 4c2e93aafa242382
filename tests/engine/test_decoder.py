"""Rows that end, tokens that are told of, prompts in pieces, and what is kept from call to call."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import TemperatureLogitsWarper

from racer import DecodeConfig, Decoder, Logits, Merge, NoDraft, PromptLookup, Request, Retrieval, StepView, hookimpl
from racer.engine import decoder as decoder_module
from racer.engine.opening import open_batch
from racer.engine.spec import BatchSpec
from racer.hf.processors import ProcessorPipeline
from racer.step.stats import StepStats
from racer.testing import HostileDrafter, decode, decode_plainly, toy_model
from support.listening import listen
from support.processors import RowDependent
from support.toy import MODEL, VOCAB


@settings(max_examples=40)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=2, max_size=9),
    do_sample=st.booleans(),
    step=st.sampled_from([None, RowDependent(), TemperatureLogitsWarper(0.7)]),
    seed=st.integers(0, 99),
)
def test_finished_rows_leave_the_batch(lengths: list[int], do_sample: bool, step: Any, seed: int) -> None:
    requests = [
        Request(prompt=(1 + row % 5, 2), padding=(0,) * (row % 2), limit=length, seed=seed + row)
        for row, length in enumerate(lengths)
    ]
    requests = [attrs.evolve(r, prompt=r.prompt if r.padding else (3, *r.prompt)) for r in requests]
    batches, told = [], []

    class Watches:
        @hookimpl
        def racer_step(self, view: StepView, stats: StepStats) -> None:
            if stats.nodes:
                batches.append((len(view.requests), sum(view.active)))

    def answers(drafter: Any, requests: list[Request], **how: Any) -> list[list[int]]:
        pipeline = ProcessorPipeline([step] if step else [], len(lengths))
        plugins = (Watches(),) if how else ()
        decoder = Decoder(MODEL, DecodeConfig(drafter=drafter, budget=6, plugins=plugins))
        decoder.decode(BatchSpec(requests=tuple(requests), pipeline=pipeline, do_sample=do_sample, **how))
        return [request.emitted for request in requests]

    got = answers(HostileDrafter(seed, VOCAB), requests, emit=lambda row, token: told.append((row, token)))
    assert [[token for row, token in told if row == number] for number in range(len(lengths))] == got
    # plainly, and nobody leaves: all rows are as long as the longest, and cut afterwards
    equal = [Request(prompt=r.prompt, padding=r.padding, limit=max(lengths), seed=r.seed) for r in requests]
    whole = answers("none", equal)
    assert got == [row[:length] for row, length in zip(whole, lengths, strict=True)]
    for size, active in batches:
        assert size == min(len(lengths), 1 << (active - 1).bit_length())


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("calls", [99, 4])
def test_every_accepted_token_is_told_of(late: bool, calls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """On an accelerator once the next forward pass has been launched; also if that fails."""
    model, events = toy_model(VOCAB), []

    def opened(*rest: Any) -> Any:
        batch = open_batch(*rest)
        batch.sends_late = late
        return batch

    monkeypatch.setattr(decoder_module, "open_batch", opened)

    def launched(*_: Any) -> None:
        events.append("forward")
        if events.count("forward") > calls:
            raise RuntimeError("device lost")

    decoder = Decoder(model, DecodeConfig(drafter="none", compile="static"))
    listen(monkeypatch, model, launched)
    request = Request(prompt=(1, 2, 3), limit=6)
    spec = BatchSpec(requests=(request,), pipeline=ProcessorPipeline(), emit=lambda row, token: events.append(token))
    with nullcontext() if calls == 99 else pytest.raises(RuntimeError, match="device lost"):
        decoder.decode(spec)
    tokens = request.emitted
    assert len(tokens) == min(calls, 6)
    assert [event for event in events if event != "forward"] == tokens
    second = ["forward", "forward", tokens[1]] if late else ["forward", tokens[1], "forward"]
    assert events[: 2 + len(second)] == ["forward", tokens[0], *second]


def test_composition_in_python() -> None:
    drafter = Merge(Retrieval(ngram=4, max_nodes=100), Logits(top_k=2), PromptLookup(), NoDraft(), policy="fill")
    got, stats = decode(Decoder(MODEL, DecodeConfig(drafter=drafter, budget=8)), [[1, 2, 3], [4]], 40)
    assert got == decode_plainly(MODEL, [[1, 2, 3], [4]], 40)
    assert set(stats.drafted) <= {"retrieval", "logits", "prompt-lookup"}
    assert "logits" in stats.drafted


def test_state_is_kept_between_calls_and_requests_are_forgotten() -> None:
    drafter = Retrieval(ngram=4, max_nodes=500)
    decoder = Decoder(MODEL, DecodeConfig(drafter=drafter, budget=8))
    first = decode(decoder, [[1, 2, 3]], 40)[1]
    again = decode(decoder, [[1, 2, 3]], 40)[1]
    assert again.mean_accepted_tokens > max(2.0, first.mean_accepted_tokens)
    assert drafter._read == {}


@pytest.mark.parametrize(("drafter", "pieces"), [("none", [16, 3]), ("logits", [1] * 19)])
def test_prompts_that_nobody_looks_at_are_scored_in_larger_pieces(
    drafter: str, pieces: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, widths = toy_model(VOCAB), []
    listen(monkeypatch, model, lambda given: widths.append(given["input_ids"].shape[1]))
    decoder = Decoder(model, DecodeConfig(drafter=drafter, prefill_chunk=1))
    widths.clear()  # of the model's examination
    tokens, _ = decode(decoder, [[1, 2, 3] * 6 + [1]], 1)
    assert widths == pieces
    assert tokens == decode_plainly(MODEL, [[1, 2, 3] * 6 + [1]], 1)
