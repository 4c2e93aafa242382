"""Text as it becomes certain: cut before stop strings, whatever the pieces in which it comes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders

from racer.engine.continuous.stream import Chunk, TokenScore
from racer.loading.detokenizer import decode
from racer.loading.loaded_model import LoadedModel
from racer.serve.text import AnswerText, Held, Unit, begun, first_of
from support.serving import load, serving
from support.tiny_folder import build_tokenizer

TOKENIZER = build_tokenizer()
END = TOKENIZER.eos_token_id
TEXT = st.text("abé你 ", max_size=24)
STOPS = st.lists(st.text("abé你", min_size=1, max_size=3), max_size=3)


def chunks_of(text: str, sizes: list[int]) -> list[Chunk]:
    """Its tokens in steps of these sizes, of which every second one was drafted."""
    ids = TOKENIZER(text, add_special_tokens=False).input_ids
    steps = []
    for number, size in enumerate(sizes * len(ids)):
        if step := tuple(ids[:size]):
            scores = tuple(TokenScore(token, -1.0) for token in step)
            steps.append(Chunk(step, len(step) if number % 2 else 0, scores))
        ids = ids[size:]
    return steps


@given(TEXT, STOPS, st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_text_ends_before_the_first_stop_string(text: str, stops: list[str], sizes: list[int]) -> None:
    answer = AnswerText(TOKENIZER, stops, frozenset([END]))
    ids = TOKENIZER(text, add_special_tokens=False).input_ids
    said = [decode(TOKENIZER, ids[: n + 1]) for n in range(len(ids))]
    # the first one that is whole: an engine stops there, though a longer one may have begun before
    found, expected = next(
        ((found, so_far[: found[0]]) for so_far in said if (found := first_of(so_far, stops))), (None, text)
    )
    given_out = ""
    for chunk in chunks_of(text, sizes):
        given_out += "".join(unit.text for unit in answer.add(chunk))
        assert expected.startswith(given_out), "what is out cannot be taken back"
    assert answer.stopped == (found is not None)
    assert given_out + "".join(unit.text for unit in answer.end()) == expected


@given(TEXT, st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_without_stop_strings_nothing_waits_and_every_score_comes_once(text: str, sizes: list[int]) -> None:
    answer, units = AnswerText(TOKENIZER, [], frozenset([END])), []
    for chunk in chunks_of(text, sizes):
        units += answer.add(chunk)
    units += answer.end()
    scored = [score.token for unit in units for score in unit.scores]
    assert scored == TOKENIZER(text, add_special_tokens=False).input_ids
    assert "".join(unit.text for unit in units) == text


def test_what_was_drafted_is_told_of_each_piece() -> None:
    a, b = TOKENIZER("a").input_ids[0], TOKENIZER("b").input_ids[0]
    units = AnswerText(TOKENIZER, [], frozenset([END])).add(Chunk((a, b, a), 2))
    assert [(unit.text, unit.drafted) for unit in units] == [("a", True), ("b", True), ("a", False)]


def test_an_end_token_is_no_text_and_has_no_score() -> None:
    a = TOKENIZER("a").input_ids[0]
    answer = AnswerText(TOKENIZER, [], frozenset([END]))
    chunk = Chunk((a, END), 0, (TokenScore(a, -1.0), TokenScore(END, -2.0)))
    assert answer.add(chunk) == [Unit("a", False, (TokenScore(a, -1.0),))]
    assert answer.end() == []


def test_half_a_character_at_the_end_is_marked() -> None:
    half = TOKENIZER("你", add_special_tokens=False).input_ids[:1]
    answer = AnswerText(TOKENIZER, ["x"], frozenset([END]))
    assert answer.add(Chunk(tuple(half), 0, (TokenScore(half[0], -1.0),))) == []
    (unit,) = answer.end()
    assert unit.text == "�"
    assert [score.token for score in unit.scores] == half


@pytest.mark.parametrize(
    ("text", "marks", "length"),
    [
        ("abc", ["cd"], 1),
        ("abc", ["bcd", "c!"], 2),
        ("abc", ["abc"], 0),
        ("", ["a"], 0),
        ("aa", ["aaa"], 2),
        ("x", [], 0),
    ],
)
def test_what_may_be_the_beginning_of_a_mark(text: str, marks: list[str], length: int) -> None:
    assert begun(text, marks) == length


def test_a_divided_unit_keeps_its_scores_in_front() -> None:
    held, score = Held(), TokenScore(3, -1.0)
    held.add(Unit("abc", True, (score,)))
    first: list[Any] = held.take(1)
    assert first == [Unit("a", True, (score,))]
    assert held.take(2) == [Unit("bc", True)]
    assert held.text == ""


def stripping(loaded: LoadedModel) -> LoadedModel:
    """Its tokenizer leaves out a text's first space, as Llama 2's does."""
    steps = [decoders.ByteLevel(), decoders.Strip(" ", 1, 0)]
    loaded.tokenizer.backend_tokenizer.decoder = decoders.Sequence(steps)
    return loaded


def test_a_completion_goes_on_from_its_prompt_and_a_chat_does_not(folder: Path) -> None:
    """The first space was lost, between words and before lines of code."""
    loaded = stripping(load(folder))
    token = loaded.tokenizer.convert_tokens_to_ids("Ġdog")
    with serving(loaded) as served:
        how: dict[str, Any] = {"logit_bias": {str(token): 100}, "max_tokens": 2}
        assert served.complete(**how)["choices"][0]["text"] == " dog dog"
        streamed = served.stream("/v1/completions", **how)
        assert "".join(chunk["choices"][0]["text"] for chunk in streamed if chunk["choices"]) == " dog dog"
        assert served.chat(**how)["choices"][0]["message"]["content"] == "dog dog"
    loaded.tokenizer.chat_template = None
    with serving(loaded) as served:
        assert served.chat(**how)["choices"][0]["message"]["content"] == " dog dog", "its prompt is the text alone"
