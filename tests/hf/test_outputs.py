"""``scores`` and ``logits`` are those that transformers gives, of the accepted places alone."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

import racer
from racer import DecodeConfig
from support.tiny_models import batch, tiny

DRAFTS = DecodeConfig(drafter="racer", budget=12)
BOTH = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}


@pytest.fixture(scope="module")
def model() -> Any:
    return copy.deepcopy(tiny("llama")).float()


def equal(mine: Any, theirs: Any, ends: list[int] | None = None) -> None:
    """All of what two calls gave is equal, up to rounding; of row ``b`` the first ``ends[b]`` new tokens."""
    assert torch.equal(mine.sequences, theirs.sequences)
    for name in ("scores", "logits"):
        got, expected = getattr(mine, name), getattr(theirs, name)
        assert (got is None) == (expected is None), name
        assert len(got or ()) == len(expected or ())
        for place, (one, other) in enumerate(zip(got or (), expected or (), strict=True)):
            assert one.dtype == torch.float32
            assert one.shape == other.shape
            for row in range(len(one)):
                if ends is not None and place >= ends[row]:
                    assert not one[row].any(), "nothing is said of what was never decoded"
                    continue
                assert torch.equal(one[row].isinf(), other[row].isinf())
                torch.testing.assert_close(one[row], other[row], atol=2e-3, rtol=1e-3)


def both(model: Any, **how: Any) -> tuple[Any, Any]:
    how = {**batch(), "do_sample": False, "max_new_tokens": 24, **BOTH} | how
    return racer.generate(model, config=DRAFTS, **how), model.generate(**how)


class CountsCalls(LogitsProcessor):
    """Has a memory: adds more to one token with every call."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        scores = scores.clone()
        scores[:, input_ids.shape[1] % scores.shape[1]] += 0.1 * self.calls
        return scores


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"repetition_penalty": 1.7},
        {"no_repeat_ngram_size": 2},
        {"suppress_tokens": [5, 6, 7, 8, 9]},
        {"bad_words_ids": [[3], [4, 5]], "min_new_tokens": 20, "eos_token_id": 11},
        {"output_logits": False},
        {"output_scores": False},
    ],
)
@pytest.mark.parametrize("rows", [1, 3])
def test_scores_and_logits_are_those_of_plain_decoding(model: Any, how: dict[str, Any], rows: int) -> None:
    inputs = {name: part[-rows:] for name, part in batch().items()}
    mine, theirs = both(model, **inputs, **how)
    assert mine.racer_stats.steps < 23, "nothing was accepted, so nothing was tried"
    equal(mine, theirs)


def test_a_processor_with_a_memory_is_asked_once(model: Any) -> None:
    one = {name: part[-1:] for name, part in batch().items()}
    mine, theirs = (
        call(**one, **BOTH, do_sample=False, max_new_tokens=24, logits_processor=LogitsProcessorList([CountsCalls()]))
        for call in (lambda **how: racer.generate(model, config=DRAFTS, **how), model.generate)
    )
    equal(mine, theirs)


def test_rows_that_end_earlier_have_zeros(model: Any) -> None:
    plain = model.generate(**batch(), do_sample=False, max_new_tokens=24)
    end = int(plain[0, 11 + 6])
    mine, theirs = both(model, eos_token_id=end)
    new = mine.sequences[:, 11:].tolist()
    ends = [row.index(end) + 1 if end in row else len(row) for row in new]
    assert min(ends) < max(ends)
    equal(mine, theirs, ends)


class StopsAt(StoppingCriteria):
    racer_row_wise = True  # so that it reads no scores

    def __init__(self, length: int) -> None:
        self.length = length

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        return torch.full((len(input_ids),), input_ids.shape[1] >= self.length)


@pytest.mark.parametrize("length", range(13, 20))
def test_what_a_criterion_cuts_off_has_no_scores(model: Any, length: int) -> None:
    one = {name: part[-1:] for name, part in batch().items()}
    mine, theirs = both(model, **one, stopping_criteria=StoppingCriteriaList([StopsAt(length)]))
    assert len(mine.scores) == length - 11
    equal(mine, theirs)


@pytest.mark.parametrize("how", [{"temperature": 0.7, "top_p": 0.8}, {"top_k": 5, "repetition_penalty": 1.3}, {}])
def test_sampled_scores_are_those_of_the_sampled_text(model: Any, how: dict[str, Any]) -> None:
    """The logits are those of greedy decoding that is forced onto the sampled text."""
    mine = racer.generate(model, config=DRAFTS, **batch(), **BOTH, **how, do_sample=True, max_new_tokens=16)

    class Follows(LogitsProcessor):
        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            forced = torch.full_like(scores, -1e9)
            return forced.scatter(1, mine.sequences[:, input_ids.shape[1], None], 0.0)

    given = {"do_sample": False, "max_new_tokens": 16, "logits_processor": LogitsProcessorList([Follows()])}
    theirs = model.generate(**batch(), **given, **BOTH)
    assert torch.equal(mine.sequences, theirs.sequences)
    for got, expected in zip(mine.logits, theirs.logits, strict=True):
        torch.testing.assert_close(got, expected, atol=2e-3, rtol=1e-3)
    settings, _ = model._prepare_generation_config(None, do_sample=True, **how)
    model._prepare_special_tokens(settings, True, device="cpu")
    warped = model._get_logits_processor(
        settings, input_ids_seq_length=11, device="cpu", logits_processor=[], model_kwargs=batch()
    )
    for place, (got, raw) in enumerate(zip(mine.scores, mine.logits, strict=True)):
        expected = warped(mine.sequences[:, : 11 + place], raw)
        assert torch.equal(got.isinf(), expected.isinf())
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
        assert got.gather(1, mine.sequences[:, 11 + place, None]).isfinite().all()


def test_transition_scores_can_be_computed(model: Any) -> None:
    mine, theirs = both(model)
    for normalize in (False, True):
        got, expected = (
            model.compute_transition_scores(out.sequences, out.scores, normalize_logits=normalize)
            for out in (mine, theirs)
        )
        torch.testing.assert_close(got, expected, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("verifier", ["greedy", "typical"])
def test_static_shapes_and_other_verifiers_give_scores_too(model: Any, verifier: str) -> None:
    config = DecodeConfig(drafter="racer", budget=12, compile="static", verifier=verifier)
    mine = racer.generate(model, config=config, **batch(), **BOTH, do_sample=False, max_new_tokens=12, pad_token_id=0)
    mask = torch.cat([batch()["attention_mask"], torch.ones(3, 12, dtype=torch.long)], 1)
    position = (mask.cumsum(1) - 1).clamp(min=0)
    logits = model(mine.sequences, attention_mask=mask, position_ids=position).logits[:, 10:-1]
    for place, got in enumerate(mine.logits):
        torch.testing.assert_close(got, logits[:, place], atol=2e-3, rtol=1e-3)
    assert all(torch.equal(one, other) for one, other in zip(mine.scores, mine.logits, strict=True))
