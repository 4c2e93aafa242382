"""The static path decodes what the dynamic one does, in shapes and at addresses that stay.

Everything here runs on the CPU, step by step (``compile="static"``): the operations are those that a GPU captures.
"""

from __future__ import annotations

import random
from collections.abc import Hashable
from typing import Any

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import racer
from racer import DecodeConfig, Decoder, Drafter, Request, TreeBuilder
from racer.step.view import StepView
from racer.testing import HostileDrafter, ReplayDrafter, decode, decode_plainly
from racer.verifiers.exact import Sampling
from support.processors import CONTEXT_FREE, PREFIX_READING, CountsCalls, RowDependent
from support.static_path import static
from support.tiny_models import VOCAB as TINY_VOCAB
from support.tiny_models import alone, batch, tiny
from support.toy import MODEL, VOCAB, plain_or_none, prompts

NAMES = ["llama", "qwen3", "gpt2", "gemma3", "mistral-sliding", "qwen2-sliding"]


class BatchSampling(Sampling):
    """As on a GPU: all nodes at once, inside the step."""

    def walks(self, view: StepView) -> bool:
        return not view.pipeline.context_free

    def capture_key(self, view: StepView) -> Hashable | None:
        return self._batch_key(view)


@settings(max_examples=50)
@given(
    prompts=prompts,
    seed=st.integers(0, 2**40),
    budget=st.integers(1, 14),
    new=st.integers(1, 20),
    do_sample=st.booleans(),
    inside=st.booleans(),
    steps=st.lists(st.sampled_from(CONTEXT_FREE + PREFIX_READING), max_size=3, unique=True),
    stop=st.sets(st.integers(0, VOCAB - 1), max_size=2),
)
def test_hostile_trees_change_nothing(
    prompts: list[list[int]], seed: int, budget: int, new: int, do_sample: bool, inside: bool, steps: list[Any],
    stop: set[int],
) -> None:  # fmt: skip
    how = {
        "do_sample": do_sample,
        "processors": steps,
        "stop_tokens": frozenset(stop),
        "seeds": [seed + 3 * i for i in range(len(prompts))],
    }
    verifier: Any = BatchSampling() if do_sample and inside else "auto"
    config = DecodeConfig(budget=budget, verifier=verifier)
    decoders = [
        Decoder(MODEL, attrs.evolve(config, drafter=HostileDrafter(seed, VOCAB), compile=compile))
        for compile in ("static", "off")
    ]
    if (plain := plain_or_none(prompts, new, **how)) is None:
        for decoder in decoders:
            with pytest.raises(RuntimeError, match="probability tensor"):
                decode(decoder, prompts, new, **how)
        return
    runs = [decode(decoder, prompts, new, **how) for decoder in decoders]
    assert runs[0][0] == runs[1][0] == plain
    if len(prompts) > 1:
        return  # rows that have ended leave the batch on one path only, and the hostile drafter guesses by the batch
    for name in ("nodes", "accept_lengths", "drafted", "accepted", "steps"):
        assert getattr(runs[0][1], name) == getattr(runs[1][1], name), "the same steps, not only the same tokens"


class HostileByRequest(Drafter):
    """Random trees that depend on the row's text alone, whoever else is in the batch."""

    name = "hostile"

    def grow(self, request: Request, tree: TreeBuilder) -> None:
        draw, nodes = random.Random(hash((request.seed, *request.tokens))), [0]
        for _ in range(draw.randint(0, 13)):
            node = tree.add(draw.choice(nodes), draw.randrange(VOCAB))
            nodes += [] if node is None else [node]


@settings(max_examples=40)
@given(
    prompts=st.lists(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=9), min_size=2, max_size=5),
    budget=st.integers(2, 14),
    new=st.integers(1, 20),
    do_sample=st.booleans(),
    stop=st.sets(st.integers(0, VOCAB - 1), max_size=2),
)
def test_batches_take_the_same_steps(
    prompts: list[list[int]], budget: int, new: int, do_sample: bool, stop: set[int]
) -> None:
    """Rows that have ended leave the batch on one path only; for the others that must make no difference."""
    how = {"do_sample": do_sample, "stop_tokens": frozenset(stop)}
    runs = [
        decode(
            Decoder(MODEL, DecodeConfig(drafter=HostileByRequest(), budget=budget, compile=way)), prompts, new, **how
        )
        for way in ("static", "off")
    ]
    assert runs[0][0] == runs[1][0] == decode_plainly(MODEL, prompts, new, **how)
    for name in ("nodes", "accept_lengths", "drafted", "accepted", "steps"):
        assert getattr(runs[0][1], name) == getattr(runs[1][1], name)


@settings(max_examples=25)
@given(prompts=prompts, seed=st.integers(0, 99), budget=st.integers(2, 24), do_sample=st.booleans())
def test_long_accepted_paths_change_nothing(prompts: list[list[int]], seed: int, budget: int, do_sample: bool) -> None:
    plain = decode_plainly(MODEL, prompts, 24, do_sample=do_sample)
    answers = {tuple(prompt): prompt + tokens for prompt, tokens in zip(prompts, plain, strict=True)}
    if len(answers) < len(prompts) and do_sample:
        return
    drafter = ReplayDrafter(lambda request: answers[request.prompt], VOCAB, seed)
    got, stats = decode(Decoder(MODEL, static(drafter=drafter, budget=budget)), prompts, 24, do_sample=do_sample)
    assert got == plain
    if budget > 12 and seed % 10 == 0:
        assert stats.mean_accepted_tokens > 1.5, "the replay is there to be accepted"


@given(prompts=prompts, do_sample=st.booleans(), budget=st.integers(2, 12))
@settings(max_examples=15)
def test_processors_with_a_memory_or_an_eye_on_rows(prompts: list[list[int]], do_sample: bool, budget: int) -> None:
    for step in (RowDependent, CountsCalls):
        rows = [prompts[0]] if step is CountsCalls else prompts
        how: dict[str, Any] = {"do_sample": do_sample}
        fast = Decoder(MODEL, static(drafter="racer-paper", budget=budget))
        slow = Decoder(MODEL, DecodeConfig(drafter="none"))
        assert (
            decode(fast, rows, 12, processors=[step()], **how)[0]
            == decode(slow, rows, 12, processors=[step()], **how)[0]
        )


@pytest.mark.usefixtures("small_buckets")
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", [*NAMES, "phi3", "mixtral"])
def test_every_architecture_across_buckets(name: str, attention: str) -> None:
    model, how = tiny(name, attention), {"max_new_tokens": 36, "do_sample": False}
    config = static(drafter=HostileDrafter(5, TINY_VOCAB), budget=14, prefill_chunk=4)
    # in float64 transformers' eager attention makes NaN of left padding (the mask's minimum is -inf as float32)
    for inputs in [alone(0), alone(2)] if attention == "eager" else [batch()]:
        assert torch.equal(racer.generate(model, config=config, **inputs, **how), model.generate(**inputs, **how))


@pytest.mark.usefixtures("small_buckets")
@pytest.mark.parametrize(
    ("name", "verifier", "drafter"),
    [(name, "inside", "racer-paper") for name in NAMES]
    + [("llama", "auto", "racer"), ("gemma3", "auto", "racer-paper"), ("gpt2", "inside", "none")],
)
def test_sampling_is_plain_sampling(name: str, verifier: str, drafter: str) -> None:
    model, how = tiny(name), {"max_new_tokens": 30, "do_sample": True, "temperature": 0.8, "top_p": 0.9, "top_k": 12}
    who: Any = BatchSampling() if verifier == "inside" else "auto"
    got = racer.generate(model, config=static(drafter=drafter, seed=11, budget=24, verifier=who), **batch(), **how)
    plain = DecodeConfig(drafter="none", seed=11, compile="off")
    assert torch.equal(got, racer.generate(model, config=plain, **batch(), **how))


def test_learned_positions_reach_their_very_end() -> None:
    model, inputs = tiny("gpt2"), alone(2)
    how = {"max_new_tokens": 64 - 11, "do_sample": False}
    config = static(drafter=HostileDrafter(2, TINY_VOCAB), budget=14)
    assert torch.equal(racer.generate(model, config=config, **inputs, **how), model.generate(**inputs, **how))


def test_storage_that_grows_in_the_middle_of_a_text() -> None:
    prompt = [[1, 2, 3]]
    decoder = Decoder(MODEL, static(drafter="racer-paper", budget=16))
    got, _ = decode(decoder, prompt, 1500)  # opened for 1024 new tokens
    assert got == decode(Decoder(MODEL, DecodeConfig(drafter="none", compile="off")), prompt, 1500)[0]
