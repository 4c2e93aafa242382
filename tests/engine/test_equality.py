"""The promise: whatever a drafter guesses, output is that of plain decoding, row by row, token by token."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from racer import DecodeConfig, Decoder, Logits, Merge, Retrieval
from racer.testing import HostileDrafter, ReplayDrafter, decode, decode_plainly
from support.processors import CONTEXT_FREE, PREFIX_READING, CountsCalls, RowDependent
from support.toy import MODEL, VOCAB, plain_or_none, prompts

processors = st.lists(st.sampled_from(CONTEXT_FREE + PREFIX_READING), max_size=3, unique=True)


@settings(max_examples=100)
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
    decoder = Decoder(MODEL, DecodeConfig(drafter=drafter, budget=budget, prefill_chunk=chunk))
    if (plain := plain_or_none(prompts, new, **how)) is None:
        with pytest.raises(RuntimeError, match="probability tensor"):
            decode(decoder, prompts, new, **how)
        return
    got, stats = decode(decoder, prompts, new, **how)
    assert got == plain
    assert [sum(lengths) + 1 for lengths in stats.accept_lengths] == [len(row) for row in got]


@settings(max_examples=50)
@given(prompts=prompts, seed=st.integers(0, 99), budget=st.integers(2, 24), do_sample=st.booleans(), steps=processors)
def test_long_accepted_paths_change_nothing(
    prompts: list[list[int]], seed: int, budget: int, do_sample: bool, steps: list[Any]
) -> None:
    how = {"do_sample": do_sample, "processors": steps}
    plain = plain_or_none(prompts, 24, **how)
    if plain is None:
        return
    answers = {tuple(prompt): prompt + tokens for prompt, tokens in zip(prompts, plain, strict=True)}
    if len(answers) < len(prompts) and do_sample:
        return  # equal prompts have different answers under sampling; the replay could not tell them apart
    drafter = ReplayDrafter(lambda request: answers[request.prompt], VOCAB, seed)
    got, stats = decode(Decoder(MODEL, DecodeConfig(drafter=drafter, budget=budget)), prompts, 24, **how)
    assert got == plain
    if budget > 12 and seed % 10 == 0:
        assert stats.mean_accepted_tokens > 1.5, "the replay is there to be accepted"


@settings(max_examples=30)
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
