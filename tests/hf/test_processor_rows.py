"""Batches with logits processors: each row of ``generate``'s, whatever the processors read and remember."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LogitsProcessor
from transformers.generation import logits_process as hf

import racer
from racer import DecodeConfig, PerRow
from racer.errors import UnsupportedGeneration
from racer.hf.processors import ProcessorPipeline
from racer.hf.processors.kinds import KINDS, Kind
from racer.testing import HostileDrafter, ReplayDrafter, toy_model
from support.matchers import Budget, Copyable, Guides, Matcher
from support.processors import CountsCalls
from support.toy_batch import BATCH, IDS, MODEL, VOCAB
from support.versions import RECENT, recent


def test_every_processor_of_transformers_is_known() -> None:
    own = {
        item
        for _, item in inspect.getmembers(hf, inspect.isclass)
        if issubclass(item, hf.LogitsProcessor) and item is not hf.LogitsProcessor
    }
    assert own == set(KINDS), "read its source: what does it need to be right in a batch?"


SETTINGS: list[dict[str, Any]] = [
    {"repetition_penalty": 1.7},
    {"no_repeat_ngram_size": 1},
    {"no_repeat_ngram_size": 2},
    {"no_repeat_ngram_size": 4},
    {"bad_words_ids": [[1], [2, 3], [4, 4, 1], [0, 6]]},
    {"sequence_bias": [[[1], -2.0], [[2], 1.5], [[2, 3], 4.0], [[6, 3], -4.0], [[5, 2, 3], 2.0]]},
    {"min_length": 9},
    {"min_new_tokens": 4},
    {"encoder_repetition_penalty": 1.5},
    {"encoder_no_repeat_ngram_size": 2},
    {"forced_eos_token_id": 5},
    {"forced_bos_token_id": 3},
    {"exponential_decay_length_penalty": (3, 1.3)},
    {"suppress_tokens": [6, 7]},
    {"begin_suppress_tokens": [1, 2, 3]},
    {"remove_invalid_values": True},
    {"renormalize_logits": True},
]


@settings(max_examples=60)
@given(
    chosen=st.lists(st.sampled_from(SETTINGS), min_size=1, max_size=4, unique_by=lambda how: next(iter(how))),
    pads=st.lists(st.integers(0, 3), min_size=1, max_size=4),
    copies=st.integers(1, 2),
    new=st.integers(1, 20),
    budget=st.integers(2, 20),
    seed=st.integers(0, 999),
)
def test_generates_own_processors_read_each_rows_own_prefix(
    chosen: list[dict[str, Any]], pads: list[int], copies: int, new: int, budget: int, seed: int
) -> None:
    ids = torch.randint(0, VOCAB, (len(pads), 5), generator=torch.Generator().manual_seed(seed))
    mask = (torch.arange(5) >= torch.tensor(pads)[:, None]).long()
    how: dict[str, Any] = {"input_ids": ids * mask, "attention_mask": mask, "pad_token_id": 0, "eos_token_id": 5}
    how |= {"max_new_tokens": new, "do_sample": False}
    for one in chosen:
        how |= one
    config = DecodeConfig(drafter=HostileDrafter(seed, VOCAB) if seed % 2 else "logits", budget=budget)
    assert racer.generate(MODEL, config=config, **how).tolist() == MODEL.generate(**how).tolist()


PROCESSORS: list[Any] = [
    lambda: hf.RepetitionPenaltyLogitsProcessor(1.4),
    lambda: hf.RepetitionPenaltyLogitsProcessor(1.4, prompt_ignore_length=5),
    lambda: hf.RepetitionPenaltyLogitsProcessor(0.6, prompt_ignore_length=90),
    lambda: hf.NoRepeatNGramLogitsProcessor(3),
    lambda: hf.SuppressTokensAtBeginLogitsProcessor([1, 2, 99], 6),
    lambda: hf.MinLengthLogitsProcessor(8, [5, 99]),
    lambda: hf.AlternatingCodebooksLogitsProcessor(4, 2, 3),
    lambda: hf.BarkEosPrioritizerLogitsProcessor(5, 0.3),
    lambda: PerRow(Matcher),
    lambda: PerRow(lambda: copy.deepcopy(CountsCalls())),
]


def _whisper() -> hf.WhisperTimeStampLogitsProcessor:
    config = type("Config", (), {"no_timestamps_token_id": 4, "eos_token_id": 3, "bos_token_id": 3})()
    return hf.WhisperTimeStampLogitsProcessor(config, 5)


@settings(max_examples=50)
@given(
    steps=st.lists(st.sampled_from([*PROCESSORS, _whisper]), min_size=1, max_size=3, unique=True),
    rows=st.integers(1, 4),
    new=st.integers(1, 20),
    seed=st.integers(0, 99),
    budget=st.integers(2, 16),
)
def test_processors_that_are_passed_in(steps: list[Any], rows: int, new: int, seed: int, budget: int) -> None:
    ids = torch.randint(0, VOCAB, (rows, 4), generator=torch.Generator().manual_seed(seed))
    how: dict[str, Any] = {"attention_mask": torch.ones_like(ids), "max_new_tokens": new, "do_sample": False}
    expected = MODEL.generate(input_ids=ids, logits_processor=[make() for make in steps], **how)
    answers = {tuple(prompt): row for prompt, row in zip(ids.tolist(), expected.tolist(), strict=True)}
    drafter = ReplayDrafter(lambda request: answers[request.prompt], VOCAB, seed)  # right guesses, and wrong ones
    config = DecodeConfig(drafter=drafter, budget=budget)
    got = racer.generate(MODEL, config=config, input_ids=ids, logits_processor=[make() for make in steps], **how)
    assert got.tolist() == expected.tolist()


@pytest.mark.parametrize("how", [{}, {"seeding_scheme": "selfhash", "context_width": 2}])
def test_a_watermark_is_seeded_by_each_rows_own_tokens(how: dict[str, Any]) -> None:
    model, step = toy_model(50), hf.WatermarkLogitsProcessor(50, "cpu", 0.4, **how)
    call = BATCH | {"max_new_tokens": 25, "do_sample": False, "logits_processor": [step]}
    got = racer.generate(model, config=DecodeConfig(drafter="logits", budget=12), **call)
    assert torch.equal(got, model.generate(**call))


@settings(max_examples=30)
@given(
    rows=st.integers(1, 4),
    do_sample=st.booleans(),
    stop=st.sampled_from([None, 5]),
    new=st.integers(1, 20),
    seed=st.integers(0, 99),
)
def test_matchers_see_consecutive_prefixes_and_nothing_behind_the_end(
    rows: int, do_sample: bool, stop: int | None, new: int, seed: int
) -> None:
    ids = torch.randint(0, VOCAB, (rows, 4), generator=torch.Generator().manual_seed(seed))
    how = {
        "input_ids": ids, "attention_mask": torch.ones_like(ids), "max_new_tokens": new, "do_sample": do_sample,
        "eos_token_id": stop, "pad_token_id": 0,
    }  # fmt: skip

    def run(drafter: Any) -> Any:
        step = Copyable(stop) if rows > 1 else Matcher(stop)
        return racer.generate(
            MODEL, config=DecodeConfig(drafter=drafter, budget=12, seed=3), logits_processor=[step], **how
        ).tolist()

    plain = run("none")
    assert run("logits") == run(HostileDrafter(seed, VOCAB)) == plain
    if not do_sample:
        theirs = MODEL.generate(logits_processor=[PerRow(Matcher)], **how).tolist()
        assert theirs == plain


def _synth_id() -> hf.SynthIDTextWatermarkLogitsProcessor:
    return hf.SynthIDTextWatermarkLogitsProcessor(3, [7, 1, 5], 64, 0, 16, torch.device("cpu"))


@pytest.mark.parametrize("step", [CountsCalls, Budget, Matcher, Guides, _synth_id, lambda: lambda ids, scores: scores])
def test_what_nobody_knows_is_only_asked_about_one_row(step: Any) -> None:
    class Untouched(LogitsProcessor):
        racer_row_wise = True

        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            raise AssertionError("called before it was clear who decodes")

    with pytest.raises(UnsupportedGeneration, match="one prompt at a time"):
        ProcessorPipeline([Untouched(), step()], 2)
    if step is not Guides:
        how = {"input_ids": IDS[:1], "max_new_tokens": 20, "do_sample": False}
        got = racer.generate(MODEL, logits_processor=[step()], **how)
        assert torch.equal(got, MODEL.generate(logits_processor=[step()], **how))


@recent("each sequence has a batch id of its own")
@pytest.mark.parametrize("earlier", [{}, {"repetition_penalty": 1.5}])
def test_sequences_of_one_prompt_share_a_batch_id(earlier: dict[str, Any]) -> None:
    asked: dict[str, set[int]] = {"ours": set(), "theirs": set()}

    def run(who: str, generate: Any) -> Any:
        def allowed(batch_id: int, prefix: torch.Tensor) -> list[int]:
            asked[who].add(batch_id)
            return [1 + batch_id, 3 + batch_id, 5]

        mask = None if earlier else BATCH["attention_mask"]
        how = {"input_ids": IDS, "attention_mask": mask, "pad_token_id": 0, "max_new_tokens": 9} | earlier
        torch.manual_seed(0)
        return generate(prefix_allowed_tokens_fn=allowed, num_return_sequences=2, do_sample=True, **how)

    ours = run("ours", lambda **kw: racer.generate(MODEL, config=DecodeConfig(drafter="logits", budget=9), **kw))
    run("theirs", MODEL.generate)
    assert asked["ours"] == asked["theirs"] == {0, 1}
    assert ours.shape[0] == 4
    for row, tokens in enumerate(ours[:, 4:].tolist()):
        assert set(tokens) <= {1 + row // 2, 3 + row // 2, 5}


def test_siblings_that_would_decide_together_are_left_to_transformers() -> None:
    constraint = hf.PrefixConstrainedLogitsProcessor(lambda batch_id, prefix: [1], 2)
    ProcessorPipeline([hf.RepetitionPenaltyLogitsProcessor(1.2), constraint], 4)
    with pytest.raises(UnsupportedGeneration, match="one sequence at a time"):
        ProcessorPipeline([hf.NoRepeatNGramLogitsProcessor(2), constraint], 4)


@pytest.mark.parametrize(
    "step",
    [
        *([hf.RepetitionPenaltyLogitsProcessor(1.2, prompt_ignore_length=torch.tensor([1, 2]))] if RECENT else []),
        hf.EncoderNoRepeatNGramLogitsProcessor(2, torch.ones(2, 4, dtype=torch.long)),
        hf.PrefixConstrainedLogitsProcessor(lambda batch_id, prefix: [1], 2),
    ],
)
def test_what_is_made_for_another_batch_is_left_to_transformers(step: Any) -> None:
    with pytest.raises(UnsupportedGeneration, match="made for 2 rows, and the batch has 3"):
        ProcessorPipeline([step], 3)


def test_rows_must_get_a_processor_each() -> None:
    class OneForAll(LogitsProcessor):
        def racer_rows(self, rows: int) -> list[Any]:
            return [Matcher()]

    with pytest.raises(ValueError, match="gave 1 processors for 2 rows"):
        racer.generate(MODEL, **BATCH, max_new_tokens=3, do_sample=False, logits_processor=[OneForAll()])


def test_guidance_keeps_its_cache_right_for_one_row() -> None:
    how = {"input_ids": IDS[:1], "max_new_tokens": 25, "do_sample": False, "guidance_scale": 1.5}
    got = racer.generate(MODEL, config=DecodeConfig(drafter="logits", budget=12), **how)
    assert torch.equal(got, MODEL.generate(**how))


def test_a_processor_may_keep_what_it_gave() -> None:
    """transformers' own ones never write into the scores that they get; neither do ours."""

    class Keeps(LogitsProcessor):
        racer_row_wise = True

        def __init__(self) -> None:
            self.kept: list[tuple[Any, Any]] = []

        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            self.kept.append((scores, scores.clone()))
            return scores

    keeps = Keeps()
    how = {"max_new_tokens": 9, "do_sample": False}
    racer.generate(MODEL, **BATCH, **how, logits_processor=[keeps, hf.RepetitionPenaltyLogitsProcessor(1.5)])
    assert keeps.kept
    assert all(torch.equal(one, other) for one, other in keeps.kept)


def test_all_kinds_occur() -> None:
    assert set(Kind) == set(KINDS.values())
