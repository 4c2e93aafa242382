"""The promise: whatever a drafter guesses, output is that of plain decoding, row by row, token by token."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    LogitsProcessor,
    MinPLogitsWarper,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from racer import (
    DecodeConfig,
    Decoder,
    Drafter,
    Logits,
    Merge,
    NoDraft,
    PromptLookup,
    Request,
    Retrieval,
    StepView,
    hookimpl,
)
from racer.discovery import plugins
from racer.engine.batch import BatchSpec
from racer.hf.processors import ProcessorPipeline
from racer.step.stats import StepStats
from racer.testing import HostileDrafter, ReplayDrafter, check_drafter, decode, decode_plainly, toy_model
from racer.testing.toy import ToyLM

VOCAB = 6
MODEL = toy_model(VOCAB)
prompts = st.lists(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=9), min_size=1, max_size=4)


class RowDependent(LogitsProcessor):
    """Reads everything that it is given: the whole prefix and the row's number."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        rows = torch.arange(len(scores))[:, None]
        shift = (input_ids.sum(1, keepdim=True) * 31 + input_ids.shape[1] * 7 + rows * 3) % scores.shape[1]
        return scores + 1.5 * (torch.arange(scores.shape[1]) == shift)


class CountsCalls(LogitsProcessor):
    """Has a memory: right only if it is called once for each token, in order."""

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.seen += 1
        return scores + (torch.arange(scores.shape[1]) == self.seen % scores.shape[1])


CONTEXT_FREE: list[Any] = [
    TemperatureLogitsWarper(0.7),
    TemperatureLogitsWarper(1.8),
    TopKLogitsWarper(3),
    TopPLogitsWarper(0.8),
    MinPLogitsWarper(0.2),
]
PREFIX_READING: list[Any] = [RepetitionPenaltyLogitsProcessor(1.4), NoRepeatNGramLogitsProcessor(3)]
processors = st.lists(st.sampled_from(CONTEXT_FREE + PREFIX_READING), max_size=3, unique=True)


@settings(max_examples=150)
@given(
    prompts=prompts,
    seed=st.integers(0, 2**40),
    budget=st.integers(2, 14),
    new=st.integers(1, 20),
    do_sample=st.booleans(),
    steps=processors,
    stop=st.sets(st.integers(0, VOCAB - 1), max_size=2),
    chunk=st.integers(1, 12),
)
def test_hostile_trees_change_nothing(
    prompts: list[list[int]],
    seed: int,
    budget: int,
    new: int,
    do_sample: bool,
    steps: list[Any],
    stop: set[int],
    chunk: int,
) -> None:
    how = {
        "do_sample": do_sample,
        "processors": steps,
        "stop_tokens": frozenset(stop),
        "seeds": [seed + 3 * i for i in range(len(prompts))],
    }
    drafter = HostileDrafter(seed, VOCAB)
    got, stats = decode(
        Decoder(MODEL, DecodeConfig(drafter=drafter, budget=budget, prefill_chunk=chunk)), prompts, new, **how
    )
    assert got == decode_plainly(MODEL, prompts, new, **how)
    assert [sum(lengths) + 1 for lengths in stats.accept_lengths] == [len(row) for row in got]


@settings(max_examples=80)
@given(prompts=prompts, seed=st.integers(0, 99), budget=st.integers(2, 24), do_sample=st.booleans(), steps=processors)
def test_long_accepted_paths_change_nothing(
    prompts: list[list[int]], seed: int, budget: int, do_sample: bool, steps: list[Any]
) -> None:
    how = {"do_sample": do_sample, "processors": steps}
    plain = decode_plainly(MODEL, prompts, 24, **how)
    answers = {tuple(prompt): prompt + tokens for prompt, tokens in zip(prompts, plain, strict=True)}
    if len(answers) < len(prompts) and do_sample:
        return  # equal prompts have different answers under sampling; the replay could not tell them apart
    drafter = ReplayDrafter(lambda request: answers[request.prompt], VOCAB, seed)
    got, stats = decode(Decoder(MODEL, DecodeConfig(drafter=drafter, budget=budget)), prompts, 24, **how)
    assert got == plain
    if budget > 12 and seed % 10 == 0:
        assert stats.mean_accepted_tokens > 1.5, "the replay is there to be accepted"


@pytest.mark.parametrize("name", ["racer", "racer-paper", "retrieval", "logits", "recycling", "prompt-lookup", "none"])
def test_built_in_drafters_pass_the_kit(name: str) -> None:
    check_drafter(plugins.resolve("drafter", name).factory, max_examples=40)


def test_the_kit_catches_a_drafter_that_lies() -> None:
    class Lies(Drafter):
        def draft(self, view: Any, budget: int) -> Any:
            return HostileDrafter(1, 50).draft(view, budget)  # ids outside the vocabulary

    with pytest.raises(Warning, match="outside the vocabulary"):
        check_drafter(Lies, max_examples=20)


@given(prompts=prompts, do_sample=st.booleans(), budget=st.integers(2, 12))
def test_processors_with_a_memory_or_an_eye_on_rows(prompts: list[list[int]], do_sample: bool, budget: int) -> None:
    drafter = Merge(HostileDrafter(1, VOCAB), Logits(3), Retrieval(3, 50))
    for step in (RowDependent, CountsCalls):
        batch = [prompts[0]] if step is CountsCalls else prompts
        fast = Decoder(MODEL, DecodeConfig(drafter=drafter, budget=budget))
        slow = Decoder(MODEL, DecodeConfig(drafter="none"))
        assert (
            decode(fast, batch, 12, do_sample=do_sample, processors=[step()])[0]
            == decode(slow, batch, 12, do_sample=do_sample, processors=[step()])[0]
        )


@given(prompt=st.lists(st.integers(0, VOCAB - 1), min_size=2, max_size=8), steps=processors)
def test_plain_decoding_is_that_of_transformers(prompt: list[int], steps: list[Any]) -> None:
    ids = torch.tensor([prompt])
    theirs = MODEL.generate(input_ids=ids, logits_processor=steps, max_new_tokens=15, do_sample=False)
    assert decode_plainly(MODEL, [prompt], 15, processors=steps)[0] == theirs[0, len(prompt) :].tolist()


@given(
    prompts=prompts,
    do_sample=st.booleans(),
    steps=st.lists(st.sampled_from(CONTEXT_FREE), max_size=3),
    seed=st.integers(0, 9),
)
def test_both_routes_through_the_processors_agree(
    prompts: list[list[int]], do_sample: bool, steps: list[Any], seed: int
) -> None:
    """All nodes in one batch, processors first and then noise, against node by node along the walk."""
    from racer.verifiers.exact import ExactVerifier, Greedy, Sampling

    def forced(kind: type[ExactVerifier], walk: bool) -> ExactVerifier:
        route = {} if walk else {"targets": ExactVerifier.targets}  # as on an accelerator
        return type("Forced", (kind,), {"walks": lambda self, view: walk, **route})()

    kind = Sampling if do_sample else Greedy
    outputs = [
        decode(
            Decoder(MODEL, DecodeConfig(drafter=HostileDrafter(seed, VOCAB), budget=10, verifier=forced(kind, walk))),
            prompts, 15, do_sample=do_sample, processors=steps,
        )[0]
        for walk in (True, False)
    ]  # fmt: skip
    assert outputs[0] == outputs[1]


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
def test_every_accepted_token_is_told_of(late: bool, calls: int) -> None:
    """On an accelerator once the next forward pass has been launched; also if that fails."""
    model, events = toy_model(VOCAB), []

    class Watched(Decoder):
        def _open(self, spec: BatchSpec, *rest: Any) -> Any:
            run = super()._open(spec, *rest)
            run.late = late
            return run

    def launched(*_: Any) -> None:
        events.append("forward")
        if events.count("forward") > calls:
            raise RuntimeError("device lost")

    decoder = Watched(model, DecodeConfig(drafter="none"))
    model.register_forward_pre_hook(launched)
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


@pytest.mark.parametrize("budget", [1, 2, 64])
def test_the_toy_model_reads_its_whole_prefix(budget: int) -> None:
    """The proof would be void if the model ignored part of it."""
    assert isinstance(MODEL, ToyLM)
    base = torch.tensor([[1, 2, 3, 4]])
    for place in range(4):
        other = base.clone()
        other[0, place] = 5
        assert not torch.equal(MODEL(base).logits[0, -1], MODEL(other).logits[0, -1])
        assert torch.equal(MODEL(base).logits[0, :place], MODEL(other).logits[0, :place])


@pytest.mark.parametrize(("drafter", "pieces"), [("none", [16, 3]), ("logits", [1] * 19)])
def test_prompts_that_nobody_looks_at_are_scored_in_larger_pieces(drafter: str, pieces: list[int]) -> None:
    model, widths = toy_model(VOCAB), []
    model.register_forward_pre_hook(lambda _, __, given: widths.append(given["input_ids"].shape[1]), with_kwargs=True)
    decoder = Decoder(model, DecodeConfig(drafter=drafter, prefill_chunk=1))
    widths.clear()  # of the model's examination
    tokens, _ = decode(decoder, [[1, 2, 3] * 6 + [1]], 1)
    assert widths == pieces
    assert tokens == decode_plainly(MODEL, [[1, 2, 3] * 6 + [1]], 1)
