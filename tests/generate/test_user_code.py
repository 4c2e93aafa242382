"""Processors, criteria and streamers of users."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    EosTokenCriteria,
    LogitsProcessorList,
    MaxLengthCriteria,
    MaxTimeCriteria,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteriaList,
    StopStringCriteria,
    TemperatureLogitsWarper,
    TextStreamer,
    TopKLogitsWarper,
)

from support.generate_calls import Either, Raises
from support.generate_cases import NOT_CUSTOM, Case, Ways, check, over_models
from support.generate_models import EOS, tokenizer
from support.user_code import (
    AfterTokenProcessor,
    AnotherDtype,
    Collects,
    CountsCalls,
    CountsPerRow,
    CountsSteps,
    EndsAll,
    EndsAt,
    EndsByCount,
    Favours,
    LimitsByRow,
    MixesRows,
    Nans,
    PairEnds,
    RaisesAt,
    ReadsPrefix,
    ReadsRow,
    ReadsScores,
    SharedCount,
    TracksRows,
    WritesInPlace,
    allowed,
)


def _processors(*steps: Any, **how: Any) -> dict[str, Any]:
    return {"logits_processor": LogitsProcessorList(steps), **how}


def _criteria(*steps: Any, **how: Any) -> dict[str, Any]:
    return {"stopping_criteria": StoppingCriteriaList(steps), **how}


def _shared() -> dict[str, Any]:
    count = SharedCount()
    return _processors(count) | _criteria(EndsByCount(count))


OWN = "processor"
ENDS = "criteri"
SAMPLE: dict[str, Any] = {"do_sample": True, "max_new_tokens": 8}

PROCESSORS = [
    Case("token-wise", _processors(Favours()), Either(OWN)),
    Case("reads the prefix", _processors(ReadsPrefix()), Either(OWN)),
    Case("reads the row", _processors(ReadsRow()), Either(OWN)),
    Case("mixes rows", _processors(MixesRows()), Either(OWN)),
    Case("writes in place", _processors(WritesInPlace()), Either(OWN)),
    Case("another dtype", _processors(AnotherDtype()), Either(OWN)),
    Case("counts calls", _processors(CountsCalls()), Either(OWN)),
    Case("counts per row", _processors(CountsPerRow()), Either(OWN)),
    Case("counts calls after a built-in", _processors(CountsCalls(), repetition_penalty=1.2), Either(OWN)),
    Case("counts calls until eos", lambda m, r: _processors(CountsCalls(), eos_token_id=[12, 24, 30]), Either(OWN)),
    Case("sampled, token-wise", _processors(Favours(), **SAMPLE), Either(OWN)),
    Case("sampled, reads the prefix", _processors(ReadsPrefix(), **SAMPLE), Either(OWN)),
    Case("sampled, reads the row", _processors(ReadsRow(), **SAMPLE), Either(OWN)),
    Case("sampled, mixes rows", _processors(MixesRows(), **SAMPLE), Either(OWN)),
    Case("sampled, counts calls", _processors(CountsCalls(), **SAMPLE), Either(OWN)),
    Case("sampled, counts per row", _processors(CountsPerRow(), **SAMPLE), Either(OWN)),
    Case("raises at once", _processors(AfterTokenProcessor(0)), Raises(RuntimeError)),
    Case("raises later", _processors(AfterTokenProcessor(5)), Raises(RuntimeError)),
    Case("raises StopIteration", _processors(AfterTokenProcessor(3, StopIteration)), Raises(StopIteration)),
    Case("raises AssertionError", _processors(AfterTokenProcessor(3, AssertionError)), Raises(AssertionError)),
    Case("raises under sampling", _processors(AfterTokenProcessor(4), **SAMPLE), Raises(RuntimeError)),
    Case("raises after the end", lambda m, r: _processors(AfterTokenProcessor(6), max_new_tokens=5), Either(OWN)),
    Case("all NaN", _processors(Nans()), Either(OWN)),
    Case("all NaN under sampling", _processors(Nans(), **SAMPLE), Raises(RuntimeError)),
    Case("all -inf", _processors(Nans(-torch.inf)), Either(OWN)),
    Case("all -inf under sampling", _processors(Nans(-torch.inf), **SAMPLE), Raises(RuntimeError)),
    Case("all inf under sampling", _processors(Nans(torch.inf), **SAMPLE), Raises(RuntimeError)),
    Case("NaN removed", _processors(Nans(), remove_invalid_values=True), Either(OWN)),
    Case("a list, not LogitsProcessorList", {"logits_processor": [Favours()]}, Either(OWN)),
    Case("an empty list", {"logits_processor": []}),
    Case("a tuple", {"logits_processor": (Favours(),)}, Either(OWN)),
    Case("a function", {"logits_processor": LogitsProcessorList([lambda ids, scores: scores.flip(1)])}, Either(OWN)),
    Case("a built-in given twice", _processors(RepetitionPenaltyLogitsProcessor(1.3), repetition_penalty=1.2),
         Either()),
    Case("warpers by hand, greedy", _processors(TemperatureLogitsWarper(0.7), TopKLogitsWarper(5))),
    Case("warpers by hand, sampled", _processors(TemperatureLogitsWarper(0.7), TopKLogitsWarper(5), **SAMPLE)),
    Case("prefix_allowed_tokens_fn", {"prefix_allowed_tokens_fn": allowed}),
    Case("prefix_allowed_tokens_fn sampled", {"prefix_allowed_tokens_fn": allowed, **SAMPLE}),
    Case("prefix_allowed_tokens_fn and sequences", {"prefix_allowed_tokens_fn": allowed, **SAMPLE,
         "num_return_sequences": 2}),
    Case("prefix_allowed_tokens_fn with beams", {"prefix_allowed_tokens_fn": allowed, "num_beams": 2},
         Either("num_beams")),
    Case("nothing is allowed", {"prefix_allowed_tokens_fn": lambda row, prefix: []}, Either()),
    Case("counts per row and sequences", _processors(CountsPerRow(), **SAMPLE, num_return_sequences=3), Either(OWN)),
]  # fmt: skip

CRITERIA = [
    Case("a flag a row", _criteria(PairEnds(30, 40, 50, 60, 70, 80)), Either(ENDS)),
    Case("a flag a row, with eos", _criteria(PairEnds(30, 40, 50, 60, 70, 80), eos_token_id=EOS), Either(ENDS)),
    Case("a flag a row, sampled", _criteria(PairEnds(30, 40, 50, 60), eos_token_id=EOS, **SAMPLE), Either(ENDS)),
    Case("one flag for all", _criteria(EndsAll()), Either(ENDS)),
    Case("counts steps", _criteria(CountsSteps()), Either(ENDS)),
    Case("counts steps, with eos", _criteria(CountsSteps(), eos_token_id=list(range(30, 60, 3))), Either(ENDS)),
    Case("limits by row", _criteria(LimitsByRow()), Either(ENDS)),
    Case("limits by row, with eos", _criteria(LimitsByRow(), eos_token_id=EOS), Either(ENDS)),
    Case("ends at a length", _criteria(EndsAt(30), eos_token_id=EOS), Either(ENDS)),
    Case("ends at once", _criteria(EndsAt(0)), Either(ENDS)),
    Case("tracks its rows", lambda m, r: _criteria(TracksRows(r, *range(30, 90, 2))), Either(ENDS)),
    Case("tracks its rows, with eos", lambda m, r: _criteria(TracksRows(r, *range(30, 90, 2)), eos_token_id=EOS),
         Either(ENDS)),
    Case("shares its memory with a processor", lambda m, r: _shared(), Either(f"{OWN}|{ENDS}")),
    Case("a criterion raises", _criteria(RaisesAt(29)), Raises(KeyError)),
    Case("a criterion raises at once", _criteria(RaisesAt(0)), Raises(KeyError)),
    Case("reads scores", _criteria(ReadsScores(), output_scores=True, return_dict_in_generate=True), Either()),
    Case("reads scores that are not there", _criteria(ReadsScores()), Raises(TypeError)),
    Case("max length by hand", _criteria(MaxLengthCriteria(29))),
    Case("max length by hand alone", _criteria(MaxLengthCriteria(29), max_new_tokens=...)),
    Case("max length by hand, the default longer", _criteria(MaxLengthCriteria(40)), Either()),
    Case("eos by hand", _criteria(EosTokenCriteria(list(range(30, 60, 3))))),
    Case("eos by hand and by setting", _criteria(EosTokenCriteria(list(range(30, 60, 3))), eos_token_id=EOS)),
    Case("time by hand", _criteria(MaxTimeCriteria(600.0)), Either(ENDS)),
    Case("time over", _criteria(MaxTimeCriteria(0.0)), Either(ENDS)),
    Case("stop strings by hand", lambda m, r: _criteria(StopStringCriteria(tokenizer(), ["a", "the"])), Either(ENDS)),
    Case("stop strings by hand, with eos", lambda m, r: _criteria(
        StopStringCriteria(tokenizer(), ["a", "the"]), eos_token_id=EOS), Either(ENDS)),
    Case("a list, not StoppingCriteriaList", {"stopping_criteria": [PairEnds(40)]}, Either(ENDS)),
    Case("no criteria", {"stopping_criteria": []}),
]  # fmt: skip

STREAMERS = [
    Case("a streamer", {"streamer": Collects()}, Either("streamer"), faces=NOT_CUSTOM, rows=(1, 4)),
    Case("a streamer with eos", {"streamer": Collects(), "eos_token_id": list(range(20, 90, 3))},
         Either("streamer"), faces=NOT_CUSTOM, rows=(1, 4)),
    Case("a streamer, sampled plainly", {"streamer": Collects(), "do_sample": True, "top_k": 1}, Either("streamer"),
         faces=NOT_CUSTOM, rows=(1, 4)),
    Case("a streamer that raises at the prompt", {"streamer": Collects(0)}, Raises(BrokenPipeError),
         faces=NOT_CUSTOM, rows=(1, 4)),
    Case("a streamer that raises", {"streamer": Collects(4)}, Raises(BrokenPipeError), faces=NOT_CUSTOM, rows=(1, 4)),
    Case("a streamer and beams", {"streamer": Collects(), "num_beams": 2}, Raises(ValueError), faces=NOT_CUSTOM),
    Case("a streamer and a counting processor", lambda m, r: _processors(CountsCalls(), streamer=Collects()),
         Either(), faces=NOT_CUSTOM, rows=(1, 4)),
    Case("a streamer and criteria", lambda m, r: _criteria(PairEnds(30, 40, 50, 60), streamer=Collects()),
         Either(), faces=NOT_CUSTOM, rows=(1, 4)),
    Case("a text streamer for a batch", lambda m, r: {"streamer": TextStreamer(tokenizer())}, Raises(ValueError),
         faces=NOT_CUSTOM, rows=(4,)),
    Case("a text streamer", lambda m, r: {"streamer": TextStreamer(tokenizer())}, Either("streamer"),
         faces=NOT_CUSTOM, rows=(1,)),
    Case("a streamer and prompt_lookup", {"streamer": Collects(), "prompt_lookup_num_tokens": 2}, Either("lookup"),
         faces=NOT_CUSTOM, rows=(1,)),
]  # fmt: skip


@over_models(PROCESSORS)
def test_processors(case: Case, name: str, ways: Ways) -> None:
    check(case, name, ways)


@over_models(CRITERIA)
def test_criteria(case: Case, name: str, ways: Ways) -> None:
    check(case, name, ways)


@over_models(STREAMERS)
def test_streamers(case: Case, name: str, ways: Ways) -> None:
    check(case, name, ways)
