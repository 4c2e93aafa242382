"""Questions in files: every format, every group, and the built-in set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from racer.bench.questions import BUILTIN, Question, load_questions
from racer.bench.questions.records import MT_BENCH
from support.question_rows import HINT, groups, refused, row, write

SHARED = Path(__file__).parents[3] / "shared" / "data"


def test_the_builtin_set() -> None:
    questions = load_questions([BUILTIN])
    assert list(groups(questions).values()) == [10] * 8
    assert all(question.group == question.category and question.source == BUILTIN for question in questions)
    assert len({question.question_id for question in questions}) == 80


def test_a_file_does_not_hide_the_builtin_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(BUILTIN).write_text("A prompt.")
    Path("other.txt").write_text("Another.")
    assert len(load_questions([BUILTIN])) == 80
    assert load_questions([f"./{BUILTIN}"])[0].turns == ("A prompt.",)
    assert load_questions([BUILTIN, "other.txt"])[-1].group == "other"


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared questions are not in ../shared/data")
def test_the_shared_questions() -> None:
    files = [str(SHARED / name / "question.jsonl") for name in ("spec_bench", "human_eval", "mgsm")]
    six = dict.fromkeys(["mt_bench", "translation", "summarization", "qa", "math_reasoning", "rag"], 40)
    questions = load_questions(files)
    assert groups(questions) == {**six, "human_eval": 82, "mgsm": 125}
    assert {one.category for one in questions if one.group == "mt_bench"} == MT_BENCH


def test_every_field_is_read(tmp_path: Path) -> None:
    source = write(tmp_path / "set.jsonl", row(7, "rag", turns=["One?", "Two?"], reference="42", extra={"a": [1]}))
    assert load_questions([source]) == [Question(7, "rag", "set", ("One?", "Two?"), "42", source)]


@pytest.mark.parametrize(
    ("given_", "kept"),
    [
        ("18", "18"),
        (18, "18"),
        (0, "0"),
        (2.5, "2.5"),
        (None, None),
        ("", None),
        (" \n", None),
        ([], None),
        (["first", "second"], "first"),
        ([None, "", "second"], "second"),
        ([None, 3], "3"),
        ([None, ""], None),
        ([["James Ray", "George Harrison"]], "James Ray"),  # as Spec-Bench's rag
        ([[], [None, ""], ["third"]], "third"),
    ],
)
def test_references(tmp_path: Path, given_: Any, kept: str | None) -> None:
    assert load_questions([write(tmp_path / "set.jsonl", row(reference=given_))])[0].reference == kept


def test_prompts_need_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text('\n{"prompt": "Why?"}\n  \n{"prompt": "How?", "question_id": "b", "category": "x"}\r\n\n')
    source = str(path)
    assert load_questions([source]) == [
        Question(2, "mine", "mine", ("Why?",), None, source),
        Question("b", "x", "x", ("How?",), None, source),
    ]


def test_turns_go_before_prompt(tmp_path: Path) -> None:
    source = write(tmp_path / "set.jsonl", row(turns=["turn"], prompt=None))
    assert load_questions([source])[0].turns == ("turn",)
    assert f"line 1: no question_id: {HINT}" in refused(write(tmp_path / "b.jsonl", {"turns": ["x"], "prompt": "y"}))


def test_a_byte_order_mark_and_separators_within_strings(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    text = "a\u2028b\u0085c"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(row(turns=[text]), ensure_ascii=False).encode())
    assert load_questions([str(path)])[0].turns == (text,)


def test_names_are_told_from_their_suffix_in_any_case(tmp_path: Path) -> None:
    assert load_questions([write(tmp_path / "SET.JSONL", row())])[0].group == "SET"


def test_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "set.jsonl", row())
    assert load_questions(["~/set.jsonl"])[0].source == "~/set.jsonl"
    assert "no such question file: ~nobody-at-all/x.jsonl" in refused("~nobody-at-all/x.jsonl")


def test_sources_in_order_with_ids_of_their_own(tmp_path: Path) -> None:
    a = write(tmp_path / "a.jsonl", row(2), row(1))
    b = write(tmp_path / "b.jsonl", row(1), row("1"))
    loaded = [(one.source, one.question_id) for one in load_questions([b, a])]
    assert loaded == [(b, 1), (b, "1"), (a, 2), (a, 1)]


words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)
ids = st.integers() | words
rows = st.fixed_dictionaries(
    {"question_id": ids, "category": words, "turns": st.lists(words, min_size=1, max_size=3)},
    optional={"reference": st.none() | words | st.integers(), "extra": st.booleans() | words},
)


@given(written=st.lists(rows, min_size=1, max_size=8, unique_by=lambda one: one["question_id"]), ascii_=st.booleans())
def test_round_trip(written: list[dict[str, Any]], ascii_: bool, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("round") / "set.jsonl"
    lines = (json.dumps(one, ensure_ascii=ascii_) for one in written)
    path.write_bytes("\n".join(lines).encode())
    loaded = load_questions([str(path)])
    assert [one.question_id for one in loaded] == [one["question_id"] for one in written]
    assert [one.category for one in loaded] == [one["category"] for one in written]
    assert [list(one.turns) for one in loaded] == [one["turns"] for one in written]
    told = [None if one.get("reference") is None else str(one["reference"]) for one in written]
    assert [one.reference for one in loaded] == told
    assert load_questions([str(path)]) == loaded


@pytest.mark.parametrize(
    ("name", "categories", "expected"),
    [
        ("set.jsonl", ["qa", "rag", "qa"], {"qa": 2, "rag": 1}),
        ("set.jsonl", ["qa", "writing", "stem"], {"qa": 1, "mt_bench": 2}),
        ("set.jsonl", ["writing", "stem"], {"mt_bench": 2}),
        ("set.jsonl", ["writing", "writing", "qa"], {"writing": 2, "qa": 1}),
        ("set.jsonl", ["writing", "writing"], {"set": 2}),
        ("my.set.jsonl", ["qa"], {"my.set": 1}),
        ("human_eval/question.jsonl", ["coding", "coding"], {"human_eval": 2}),
        ("mgsm/questions.jsonl", ["reasoning"], {"mgsm": 1}),
        ("mgsm/my_question.jsonl", ["reasoning"], {"my_question": 1}),
        ("spec_bench/question.jsonl", ["qa", "rag"], {"qa": 1, "rag": 1}),
    ],
)
def test_groups_of_a_file(tmp_path: Path, name: str, categories: list[str], expected: dict[str, int]) -> None:
    source = write(tmp_path / name, *(row(number, category) for number, category in enumerate(categories)))
    questions = load_questions([source])
    assert groups(questions) == expected
    assert [question.category for question in questions] == categories


def test_the_folder_of_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "mgsm" / "question.jsonl", row())
    (tmp_path / "mgsm" / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "mgsm" / "sub")
    assert load_questions(["../question.jsonl"])[0].group == "mgsm"
    monkeypatch.chdir(tmp_path / "mgsm")
    assert load_questions(["question.jsonl"])[0].group == "mgsm"


def test_categories_are_counted_by_file(tmp_path: Path) -> None:
    sources = [write(tmp_path / f"{name}.jsonl", row(1, name)) for name in ("writing", "stem")]
    assert groups(load_questions(sources)) == {"writing": 1, "stem": 1}


@pytest.mark.parametrize("name", ["story.txt", "story.md", "story"])
def test_a_text_file_is_one_prompt(tmp_path: Path, name: str) -> None:
    path, text = tmp_path / name, '  {"prompt": "é"}\r\n\nno JSON\n'
    path.write_bytes(text.encode())
    assert load_questions([str(path)]) == [Question(name, "story", "story", (text,), None, str(path))]


def test_several_text_files_are_one_group(tmp_path: Path) -> None:
    texts = [tmp_path / "a.txt", tmp_path / "b.md"]
    for path in texts:
        path.write_text("Go on.")
    lines = write(tmp_path / "c.jsonl", row())
    questions = load_questions([str(texts[0]), lines, str(texts[1])])
    assert [(one.question_id, one.group) for one in questions] == [("a.txt", "text"), (1, "c"), ("b.md", "text")]
    assert groups(load_questions([str(texts[0]), lines])) == {"a": 1, "c": 1}
