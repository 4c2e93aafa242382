"""Penalties of what the answer has, and stop strings in what it says: functions of a row's ids, prompts not counted."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from racer.hf.criteria import row_wise
from racer.hf.processors.kinds import Kind, kind_of
from racer.loading.detokenizer import decode
from racer.serve.processors import CountPenalty, StopText
from racer.testing import HostileDrafter
from support.serving import prompt_of, solo
from support.tiny_folder import build_tokenizer

TOKENIZER = build_tokenizer()


@given(st.lists(st.integers(0, 6), max_size=12), st.floats(-2, 2), st.floats(-2, 2))
def test_penalties_count_the_answer_alone(answer: list[int], presence: float, frequency: float) -> None:
    ids = torch.tensor([[0, 1, 1, *answer]])
    scores = torch.arange(6.0)[None]
    got = CountPenalty(3, presence, frequency)(ids, scores)
    for token in range(6):  # the head has no token 6
        times = answer.count(token)
        expected = token - (presence + frequency * times if times else 0)
        assert float(got[0, token]) == pytest.approx(expected, abs=1e-5)
    assert scores.tolist() == [[0, 1, 2, 3, 4, 5]], "the scores that were given are somebody else's"


def test_rows_are_independent() -> None:
    penalty = CountPenalty(1, 0.5, 1.0)
    ids, scores = torch.tensor([[1, 2, 2], [3, 4, 5]]), torch.randn(2, 8)
    both = penalty(ids, scores)
    assert torch.equal(both, torch.cat([penalty(row[None], own[None]) for row, own in zip(ids, scores, strict=True)]))
    assert kind_of(penalty) is Kind.ROW_WISE


def test_penalties_with_drafts_are_those_of_plain_decoding(loaded: Any) -> None:
    prompt = prompt_of(loaded)
    how = {"logits_processor": [CountPenalty(len(prompt), 0.7, 1.1)]}
    plain = solo(loaded, prompt, 60, drafter="none", **how)
    assert solo(loaded, prompt, 60, drafter=HostileDrafter(1, loaded.model.config.vocab_size), **how) == plain
    assert solo(loaded, prompt, 60, **how) == plain
    assert plain != solo(loaded, prompt, 60)


@pytest.mark.parametrize(
    ("prompt", "answer", "stops", "ends"),
    [
        ("a\n", "\nb", ["\n\n"], False),
        ("a\n", "b\n\n", ["\n\n"], True),
        ("你好", "你好", ["你好"], True),
        ("", "你", ["你好"], False),
        ("", "xx" * 40 + "ab" + "y" * 5, ["ab"], True),
        ("", "ab", ["zz", "b"], True),
    ],
)
def test_stop_strings_are_looked_for_in_the_answer(prompt: str, answer: str, stops: list[str], ends: bool) -> None:
    before, behind = (TOKENIZER(text, add_special_tokens=False).input_ids for text in (prompt, answer))
    criterion = StopText(TOKENIZER, len(before), stops)
    said = [criterion(torch.tensor([before + behind[:n]], dtype=torch.long), None) for n in range(len(behind) + 1)]
    assert any(bool(one) for one in said) == ends
    assert row_wise(criterion)


def test_an_answer_ends_with_the_token_that_completes_a_stop_string(loaded: Any) -> None:
    prompt = prompt_of(loaded)
    whole = solo(loaded, prompt, 60)
    stop = decode(loaded.tokenizer, whole[20:22])
    got = solo(loaded, prompt, 60, stopping_criteria=[StopText(loaded.tokenizer, len(prompt), [stop])])
    assert got == whole[: len(got)]
    assert len(got) <= 22
    assert stop in decode(loaded.tokenizer, got)
    assert stop not in decode(loaded.tokenizer, got[:-1])


class Watched(torch.Tensor):
    """Ids of which it is known how many were made Python's."""

    most = 0

    def tolist(self) -> Any:
        type(self).most = max(self.most, self.numel())
        return super().tolist()


def test_a_long_answer_costs_no_more_than_its_end() -> None:
    ids = torch.zeros(1, 5000, dtype=torch.long).as_subclass(Watched)
    StopText(TOKENIZER, 3, ["abc"])(ids, None)
    assert 0 < Watched.most < 20
    behind = torch.tensor([TOKENIZER("abc", add_special_tokens=False).input_ids])
    assert StopText(TOKENIZER, 0, ["abc"])(behind, None).tolist() == [True]
    assert StopText(TOKENIZER, behind.shape[1], ["abc"])(behind, None).tolist() == [False], "that was the prompt"
