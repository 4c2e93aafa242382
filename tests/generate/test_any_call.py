"""Any call that can be drawn: ``racer.generate`` and an attached model give what transformers gives, or its error."""

from __future__ import annotations

from functools import cache
from typing import Any

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LogitsProcessorList, StoppingCriteriaList, StopStringCriteria

import racer
from racer import DecodeConfig
from support.generate_calls import Either, call, faces, judge
from support.generate_models import EOS, NAMES, PAD, build, plain_model, tokenizer
from support.user_code import (
    AfterTokenProcessor,
    AnotherDtype,
    Collects,
    CountsCalls,
    CountsPerRow,
    CountsSteps,
    EndsAt,
    Favours,
    LimitsByRow,
    MixesRows,
    PairEnds,
    ReadsPrefix,
    ReadsRow,
    WritesInPlace,
    allowed,
)

PROCESSORS: dict[str, Any] = {
    "favours": Favours,
    "reads the prefix": ReadsPrefix,
    "reads the row": ReadsRow,
    "mixes rows": MixesRows,
    "writes in place": WritesInPlace,
    "another dtype": AnotherDtype,
    "counts calls": CountsCalls,
    "counts per row": CountsPerRow,
    "raises": lambda: AfterTokenProcessor(4),
}
CRITERIA: dict[str, Any] = {
    "a pair": lambda: PairEnds(30, 53, 80),
    "counts steps": CountsSteps,
    "limits by row": LimitsByRow,
    "a length": lambda: EndsAt(16),
    "stop strings": lambda: StopStringCriteria(tokenizer(), ["a", "er", "the"]),
}
DRAFTERS = ("logits", "retrieval", "recycling", "prompt-lookup", "none", "racer-paper", "racer")


@attrs.define
class AnyCall:
    """A call in plain data, so that a counterexample can be copied from the report."""

    model: str = "llama"
    face: str = "racer.generate"
    drafter: str = "logits"
    budget: int = 8
    prefill_chunk: int = 512
    prompts: list[list[int]] = attrs.field(factory=lambda: [[5, 6, 7]])
    padded: int = 0
    """Columns of padding beyond what the rows need."""
    settings: dict[str, Any] = attrs.field(factory=dict)
    processors: list[str] = attrs.field(factory=list)
    criteria: list[str] = attrs.field(factory=list)
    constrained: bool = False
    streamed: bool = False

    def arguments(self) -> dict[str, Any]:
        width = max(map(len, self.prompts)) + self.padded
        how: dict[str, Any] = {
            "input_ids": torch.tensor([[PAD] * (width - len(row)) + row for row in self.prompts]),
            "attention_mask": torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in self.prompts]),
            "pad_token_id": PAD,
            **self.settings,
        }
        if self.processors:
            how["logits_processor"] = LogitsProcessorList([PROCESSORS[name]() for name in self.processors])
        if self.criteria:
            how["stopping_criteria"] = StoppingCriteriaList([CRITERIA[name]() for name in self.criteria])
        if self.constrained:
            how["prefix_allowed_tokens_fn"] = allowed
        if self.streamed and self.face != "custom":  # transformers keeps streamers from callables
            how["streamer"] = Collects()
        return how


TOKENS = st.integers(4, 99)
PROMPT = st.one_of(
    st.lists(TOKENS, min_size=1, max_size=18),
    st.builds(lambda motif, times: (motif * times)[:24], st.lists(TOKENS, min_size=1, max_size=5), st.integers(2, 8)),
)
SETTINGS: dict[str, st.SearchStrategy[Any]] = {
    "repetition_penalty": st.sampled_from([0.8, 1.1, 1.5]),
    "encoder_repetition_penalty": st.sampled_from([0.8, 1.3]),
    "no_repeat_ngram_size": st.integers(1, 4),
    "bad_words_ids": st.lists(st.lists(TOKENS, min_size=1, max_size=3), min_size=1, max_size=3),
    "sequence_bias": st.lists(
        st.tuples(st.lists(TOKENS, min_size=1, max_size=2), st.sampled_from([-6.0, 2.0, 5.0])).map(list),
        min_size=1, max_size=3, unique_by=lambda pair: tuple(pair[0]),
    ),
    "min_length": st.integers(0, 40),
    "min_new_tokens": st.integers(1, 12),
    "eos_token_id": st.one_of(st.just(EOS), st.lists(TOKENS, min_size=1, max_size=20, unique=True)),
    "forced_bos_token_id": TOKENS,
    "forced_eos_token_id": TOKENS,
    "suppress_tokens": st.lists(TOKENS, min_size=1, max_size=30),
    "begin_suppress_tokens": st.lists(TOKENS, min_size=1, max_size=30),
    "exponential_decay_length_penalty": st.tuples(st.integers(1, 8), st.sampled_from([1.1, 1.5])),
    "renormalize_logits": st.booleans(),
    "remove_invalid_values": st.booleans(),
    "guidance_scale": st.sampled_from([1.0, 1.5, 3.0]),
    "watermarking_config": st.sampled_from([{"bias": 3.0}, {"bias": 2.0, "seeding_scheme": "selfhash"}]),
    "temperature": st.sampled_from([0.3, 2.0]),
    "top_p": st.sampled_from([0.4, 0.9]),
    "use_cache": st.booleans(),
    "cache_implementation": st.sampled_from(["dynamic", "dynamic_full"]),
    "prefill_chunk_size": st.integers(1, 8),
    "return_dict_in_generate": st.booleans(),
    "output_scores": st.booleans(),
    "output_logits": st.booleans(),
    "output_hidden_states": st.booleans(),
    "num_beams": st.integers(1, 3),
    "num_return_sequences": st.integers(1, 2),
    "max_time": st.sampled_from([0.0, 600.0]),
    "prompt_lookup_num_tokens": st.integers(1, 3),
}  # fmt: skip


@st.composite
def any_call(draw: st.DrawFn) -> AnyCall:
    how = {
        name: draw(SETTINGS[name])
        for name in draw(st.lists(st.sampled_from(sorted(SETTINGS)), max_size=5, unique=True))
    }
    if any(name.startswith("output_") for name in how):
        how["return_dict_in_generate"] = draw(st.sampled_from([True, True, False]))
    if draw(st.integers(0, 9)):
        how["max_new_tokens"] = draw(st.integers(1, 16))
    else:
        how["max_length"] = draw(st.integers(1, 36))
    how["do_sample"] = False
    if draw(st.integers(0, 9)) == 0 and how.get("num_beams", 1) == 1:
        how |= {"do_sample": True, "top_k": 1}  # drawn from one token: equal, whatever the noise
    some = st.lists(st.sampled_from(sorted(PROCESSORS)), max_size=2, unique=True)
    ends = st.lists(st.sampled_from(sorted(CRITERIA)), max_size=2, unique=True)
    rarely = st.integers(0, 3).map(lambda number: number == 0)
    return AnyCall(
        model=draw(st.sampled_from(NAMES)),
        face=draw(st.sampled_from(["racer.generate", "attached", "custom"])),
        drafter=draw(st.sampled_from(DRAFTERS)),
        budget=draw(st.integers(1, 20)),
        prefill_chunk=draw(st.sampled_from([512, 4])),
        prompts=draw(st.lists(PROMPT, min_size=1, max_size=4)),
        padded=draw(st.sampled_from([0, 0, 2])),
        settings=how,
        processors=draw(some) if draw(rarely) else [],
        criteria=draw(ends) if draw(rarely) else [],
        constrained=draw(st.integers(0, 9)) == 0,
        streamed=draw(st.integers(0, 9)) == 0,
    )


@cache
def _to_attach(name: str) -> Any:
    return build(name)


def hold(drawn: AnyCall) -> None:
    """The call gives what transformers gives."""
    how = drawn.arguments()
    if drawn.face == "custom":
        how.pop("prompt_lookup_num_tokens", None)  # transformers keeps it from callables
    config = DecodeConfig(drafter=drawn.drafter, budget=drawn.budget, prefill_chunk=drawn.prefill_chunk)
    model = plain_model(drawn.model)
    attached = racer.attach(_to_attach(drawn.model), config)
    plain = call(model.generate, how)
    ours = call(faces(model, attached, config)[drawn.face], how)
    judge(plain, ours, Either())


_ROWS = [[95, 27], [39, 93, 15, 16, 80, 39, 93, 15, 16, 80], [92, 14, 81, 25, 56, 92, 14, 81, 25, 56]]
_CHUNKS: dict[str, Any] = {"prefill_chunk_size": 3, "use_cache": False, "max_new_tokens": 4}
_SCORES: dict[str, Any] = {"output_scores": True, "return_dict_in_generate": True, "eos_token_id": list(range(20, 60))}
KEPT = [
    AnyCall("gpt2", prompts=[[29, 82, 87, 87, 63, 29, 82, 87]], settings=_CHUNKS),
    AnyCall("gpt2", "custom", prompts=[[4]], settings={"return_dict_in_generate": True}, constrained=True),
    AnyCall("llama", prompts=_ROWS, settings=_SCORES | {"max_new_tokens": 10}),
    AnyCall("mistral", prompts=_ROWS, settings={"max_new_tokens": 7}, criteria=["counts steps"]),
    AnyCall("mistral", prompts=_ROWS, settings={"max_new_tokens": 12}, criteria=["limits by row", "stop strings"]),
    AnyCall("qwen2", "attached", prompts=_ROWS, settings={"max_new_tokens": 13}, processors=["counts calls"]),
    AnyCall("llama", "custom", prompts=_ROWS, settings={"max_new_tokens": 13}, processors=["mixes rows"]),
    AnyCall(
        "llama",
        prompts=[[4]],
        settings={"guidance_scale": 1.5, "max_length": 2} | {"output_scores": True, "return_dict_in_generate": True},
    ),
]
"""Calls that were wrong once."""


@pytest.mark.parametrize("drawn", KEPT, ids=range(len(KEPT)))
def test_calls_that_were_wrong_once(drawn: AnyCall) -> None:
    hold(drawn)


@settings(max_examples=30, derandomize=True)
@given(any_call())
def test_any_call(drawn: AnyCall) -> None:
    hold(drawn)


@pytest.mark.slow
@pytest.mark.soak  # longer than CI has time for
@pytest.mark.timeout(3600)
@settings(max_examples=2000, print_blob=True)
@given(any_call())
def test_any_of_two_thousand_calls(drawn: AnyCall) -> None:
    hold(drawn)
