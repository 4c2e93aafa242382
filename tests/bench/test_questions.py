"""Questions: every source, every group, every refusal, and draws that repeat."""

from __future__ import annotations

import json
import os
import random
import re
import sys
import types
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from racer.bench import questions as module
from racer.bench.questions import BUILTIN, MT_BENCH, Question, digest, draw, load_questions
from racer.errors import ConfigError

SHARED = Path(__file__).parents[3] / "shared" / "data"
HINT = "expected one object a line with question_id, category and turns, or prompt"


def row(question_id: int | str = 1, category: str = "qa", **fields: Any) -> dict[str, Any]:
    """A line in Spec-Bench's format."""
    return {"question_id": question_id, "category": category, "turns": ["Why?"], **fields}


def write(path: Path, *rows: dict[str, Any]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    return str(path)


def refused(*sources: str) -> str:
    """The one line of a refusal."""
    with pytest.raises(ConfigError) as caught:
        load_questions(sources)
    assert str(caught.value).isprintable(), "more than one line, or what a terminal cannot show"
    return str(caught.value)


def groups(questions: list[Question]) -> dict[str, int]:
    return dict(Counter(question.group for question in questions))


# -- the built-in set and the shared data ---------------------------------------------------------------------------


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


# -- files in Spec-Bench's format -----------------------------------------------------------------------------------


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


# -- groups ---------------------------------------------------------------------------------------------------------


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


# -- text files -----------------------------------------------------------------------------------------------------


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


# -- refusals -------------------------------------------------------------------------------------------------------

BAD_LINES = [
    ('{"question_id": 1 "x"}', f"not valid JSON (Expecting ',' delimiter at column 19): {HINT}"),
    ('{"prompt": "\t"}', f"not valid JSON (Invalid control character at column 13): {HINT}"),
    ('{"prompt": "\\x"}', f"not valid JSON (Invalid \\escape at column 13): {HINT}"),
    ("{} {}", f"not valid JSON (Extra data at column 4): {HINT}"),
    ("{", "not valid JSON ("),
    ("[" * 100_000, "not valid JSON ("),
    ('{"question_id": ' + "1" * 5000 + "}", "not valid JSON (Exceeds the limit"),
    ("[]", f"not an object but []: {HINT}"),
    ("null", f"not an object but None: {HINT}"),
    ('"prompt"', f"not an object but 'prompt': {HINT}"),
    ("{}", f"no turns: {HINT}"),
    (json.dumps({"category": "x", "turns": ["x"]}), f"no question_id: {HINT}"),
    (json.dumps({"question_id": 5, "turns": ["x"]}), f"no category: {HINT}"),
    *[
        (json.dumps(row(value)), "question_id must be a whole number or a non-empty text, not ")
        for value in (True, 1.5, None, "", " ", [1])
    ],
    *[(json.dumps(row(5, value)), "category must be a non-empty text, not ") for value in (1, None, "", "\n", ["x"])],
    *[
        (json.dumps(row(5, turns=value)), f"turns must be a list of non-empty texts, not {value!r}")
        for value in ([], ["x", ""], [" \n"], "x", None, {}, [["x"]], [1], ["x", None])
    ],
    *[(json.dumps({"prompt": value}), f"prompt must be a non-empty text, not {value!r}") for value in ("", " ", 1, [])],
    *[
        (json.dumps(row(5, reference=value)), "reference must be a text, a number or a list of texts, not ")
        for value in (True, {}, [[["x"]]], [True], [[False]], [{}], float("nan"))
    ],
    *[
        (json.dumps(bad), "half of a surrogate pair, which is no text: write the whole character")
        for bad in (
            row(5, turns=["x", "a\ud800"]),
            row("\udfff"),
            row(5, "\ud83d"),
            row(5, reference=["", "\udc00"]),
            {"prompt": "\ud800"},
        )
    ],
]


@pytest.mark.parametrize(("line", "words"), BAD_LINES, ids=[line[:40] for line, _ in BAD_LINES])
def test_a_bad_line_is_named(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "set.jsonl"
    path.write_text(f"{json.dumps(row())}\n\n{line}\n{json.dumps(row(3))}\n", encoding="utf-8")
    told = refused(str(path))
    assert told.startswith(f"{path}, line 3: {words}")
    assert len(told) < len(str(path)) + 400


def test_whole_characters_are_no_halves(tmp_path: Path) -> None:
    source = write(tmp_path / "set.jsonl", row(turns=["\U0001f600"]))
    assert "\\ud83d\\ude00" in Path(source).read_text()
    assert load_questions([source])[0].turns == ("\U0001f600",)


@pytest.mark.parametrize("again", [row(4), {"question_id": 4, "prompt": "x"}])
def test_an_id_twice(tmp_path: Path, again: dict[str, Any]) -> None:
    source = write(tmp_path / "set.jsonl", row(4), row(5), again)
    assert refused(source) == f"{source}, line 3: question_id 4 is also that of line 1: give each its own"


def test_a_line_number_may_be_taken(tmp_path: Path) -> None:
    source = write(tmp_path / "set.jsonl", row(2), {"prompt": "x"})
    assert "line 2: question_id 2 is also that of line 1" in refused(source)


def test_nothing_given() -> None:
    assert "no questions given: name 'builtin'" in refused()


@pytest.mark.parametrize("text", ["", "\n \r\n\t\n", "\ufeff"])
def test_empty_files(tmp_path: Path, text: str) -> None:
    lines, prompt = tmp_path / "set.jsonl", tmp_path / "prompt.txt"
    for path in (lines, prompt):
        path.write_text(text, encoding="utf-8")
    assert refused(str(lines)) == f"{lines} has no questions: {HINT}"
    assert refused(str(prompt)) == f"{prompt} is empty: a text file is one prompt"


@pytest.mark.parametrize("name", ["set.jsonl", "prompt.txt"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_other_encodings(tmp_path: Path, name: str, mark: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(mark + b'{"prompt": "\xc3\xa9"}\n\n\xe9t\xe9')  # the fault is the first byte of its line
    assert refused(str(path)) == f"{path}, line 3: not UTF-8 (byte 0xe9): convert it to UTF-8"


@pytest.mark.parametrize("name", ["set.jsonl", "prompt"])
def test_binary_files(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"\x89PNG\n\x1a\x00\n")
    assert refused(str(path)) == f"{path}, line 2: a NUL byte, so no plain text: give a text file in UTF-8"
    path.write_bytes("Why?".encode("utf-16"))
    assert "give a text file in UTF-8" in refused(str(path))


def test_folders(tmp_path: Path) -> None:
    assert refused(str(tmp_path)) == f"{tmp_path} is a folder: name a .jsonl or text file"
    beneath = [write(tmp_path / name / "question.jsonl", row()) for name in ("b", "a", "d", "c")]
    write(tmp_path / "a" / "other.jsonl", row())
    told = ", ".join(sorted(beneath)[:3])
    assert refused(str(tmp_path)) == f"{tmp_path} is a folder: name a question file, such as {told}"


@pytest.fixture
def nobody() -> Iterator[None]:
    """Root may read everything, so be somebody else for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("name", ["set.jsonl", "prompt"])
def test_unreadable_files(tmp_path: Path, name: str, request: pytest.FixtureRequest) -> None:
    path = tmp_path / name
    path.write_text("x")
    path.chmod(0)
    request.getfixturevalue("nobody")
    assert refused(str(path)) == f"cannot read {path}: Permission denied (give a file that you may read)"


@pytest.mark.parametrize(
    "source",
    [
        "./no-such",
        "../x/y",
        "/no/such",
        "~/no-such-file",
        "questions.jsonl",
        "data/questions.jsonl",
        "notes.txt",
        "notes.JSON",
        "readme.md",
        "a/b/c",
        "a/",
        "-",
        " ",
        "Why is the sky blue?",
        "x" * 5000 + "?",
    ],
)
def test_no_such_file(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert refused(source) == f"no such question file: {source}"


@pytest.mark.parametrize("source", ["a\nb", "a\0b", "a:b\nc"])
def test_names_are_told_in_one_line(source: str) -> None:
    assert refused(source) == f"no such question file: {source!r}"


def test_the_empty_name() -> None:
    assert refused("") == "no such question file: (empty name)"


def test_a_file_whose_name_has_two_lines(tmp_path: Path) -> None:
    path = tmp_path / "a\nb.jsonl"
    path.write_text("{}")
    assert refused(str(path)).startswith(f"{str(path)!r}, line 1: no turns")


# -- data sets of the hub -------------------------------------------------------------------------------------------


class Table:
    """What a loaded split offers, as far as it is used."""

    def __init__(self, *rows: dict[str, Any]) -> None:
        self.rows = rows
        self.column_names = list(rows[0]) if rows else []

    def select_columns(self, columns: list[str]) -> Table:
        return Table(*({column: one[column] for column in columns} for one in self.rows))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(dict(one) for one in self.rows)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Stand in for the library: what it is asked for, and what it gives."""
    stand_in = types.SimpleNamespace(asked=[], given={})

    def load_dataset(name: str, config: str | None, split: str | None = None) -> Any:
        stand_in.asked.append((name, config, split))
        return stand_in.given[split] if split else stand_in.given

    stand_in.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", stand_in)
    return stand_in


@pytest.mark.parametrize(
    ("source", "asked"),
    [
        ("gsm8k", ("gsm8k", None, None)),
        ("openai/gsm8k", ("openai/gsm8k", None, None)),
        ("openai/gsm8k:main", ("openai/gsm8k", "main", None)),
        ("openai/gsm8k:main:train", ("openai/gsm8k", "main", "train")),
        ("openai/gsm8k::train", ("openai/gsm8k", None, "train")),
        ("openai/gsm8k::", ("openai/gsm8k", None, None)),
        ("a/b:c:test[:1]", ("a/b", "c", "test[:1]")),
    ],
)
def test_names_of_data_sets(hub: Any, source: str, asked: tuple[str, str | None, str | None]) -> None:
    hub.given = {asked[2] or "test": Table({"question": "Why?", "answer": "So."})}
    name = asked[0].split("/")[-1]
    assert load_questions([source]) == [Question(1, name, name, ("Why?",), "So.", source)]
    assert hub.asked == [asked]


def test_the_split(hub: Any) -> None:
    hub.given = {"train": Table({"text": "train"}), "test": Table({"text": "test"})}
    assert load_questions(["x"])[0].turns == ("test",)
    assert load_questions(["x::train"])[0].turns == ("train",)
    del hub.given["test"]
    hub.given["validation"] = Table({"text": "validation"})
    assert load_questions(["x"])[0].turns == ("train",)


def test_columns_are_looked_for_in_order(hub: Any) -> None:
    prompts = dict.fromkeys(reversed(module.PROMPT_COLUMNS), "")
    references = dict.fromkeys(reversed(module.REFERENCE_COLUMNS), "")
    for column in module.PROMPT_COLUMNS:
        hub.given = {"test": Table({name: f"the {name}" for name in prompts})}
        assert load_questions(["x"])[0].turns == (f"the {column}",)
        del prompts[column]
    for column in module.REFERENCE_COLUMNS:
        hub.given = {"test": Table({"text": "x"} | {name: f"the {name}" for name in references})}
        assert load_questions(["x"])[0].reference == f"the {column}"
        del references[column]


def test_rows_as_in_mt_bench(hub: Any) -> None:
    fields = {"turns": ["One?", "Two?"], "reference": ["", "2"]}
    hub.given = {
        "train": Table(
            {"question_id": 81, "category": "writing", **fields},
            {"question_id": 91, "category": "stem", **fields},
            {"question_id": 101, "category": None, **fields},
        )
    }
    questions = load_questions(["a/mt"])
    assert [(one.question_id, one.group) for one in questions] == [(81, "mt_bench"), (91, "mt_bench"), (101, "mt")]
    assert questions[0].turns == ("One?", "Two?")
    assert questions[0].reference == "2"


def test_what_does_not_fit_is_left_out(hub: Any) -> None:
    hub.given = {
        "test": Table(
            {"text": " = Title =", "question_id": 9, "category": 3, "answer": {"a": 1}},
            {"text": " \n", "question_id": 9, "category": 3, "answer": "x"},
            {"text": None, "question_id": 9, "category": 3, "answer": "x"},
            {"text": "More.", "question_id": 9, "category": 4, "answer": 5},
        )
    }
    assert load_questions(["a/wiki"]) == [
        Question(1, "wiki", "wiki", (" = Title =",), None, "a/wiki"),
        Question(4, "wiki", "wiki", ("More.",), "5", "a/wiki"),
    ]


def test_only_the_columns_in_use_are_read(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[list[str]] = []
    select = Table.select_columns
    monkeypatch.setattr(
        Table, "select_columns", lambda table, columns: (read.append(columns), select(table, columns))[1]
    )
    hub.given = {"test": Table({"image": b"", "text": "x", "question": "Why?", "answer": "So."})}
    load_questions(["x"])
    assert read == [["question", "answer"]]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (
            Table({"image": "x", "label": "y"}),
            "the data set a/b has none of the columns turns, .*, only image, label: give",
        ),
        (Table({"text": " "}), "the data set a/b has no text in its column text: name another split"),
        (Table({"prompt": [{"role": "user"}]}), r"a/b, row 1: turns must be a list of non-empty texts, not \[{'role'"),
        (Table({"text": "x"}, {"text": 5}), "a/b, row 2: turns must be a list of non-empty texts, not 5"),
    ],
)
def test_tables_without_questions(hub: Any, table: Table, words: str) -> None:
    hub.given = {"test": table}
    assert re.match(words, refused("a/b"))


def test_whatever_the_library_raises(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ConnectionError("Couldn't reach 'a/b' on the Hub.\nand more")

    monkeypatch.setattr(hub, "load_dataset", fail)
    assert refused("a/b:c") == (
        "cannot load the data set a/b:c: Couldn't reach 'a/b' on the Hub "
        "(check the name, as NAME:CONFIG:SPLIT, and the network, or give a file)"
    )


def test_retries_are_not_told(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.utils import logging

    before, levels = logging.get_verbosity(), []

    def load_dataset(*_: Any, **__: Any) -> dict[str, Table]:
        levels.append(logging.get_verbosity())
        return {"test": Table({"text": "x"})}

    monkeypatch.setattr(hub, "load_dataset", load_dataset)
    load_questions(["x"])
    assert levels == [logging.ERROR]
    assert logging.get_verbosity() == before != logging.ERROR


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert refused("openai/gsm8k") == "no file openai/gsm8k, and Hugging Face data sets need: pip install datasets"


def test_the_library_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    datasets = pytest.importorskip("datasets")
    for split in ("train", "test"):
        rows = ({"question": f"{split} {number}?", "answer": number, "extra": None} for number in range(3))
        write(tmp_path / "gsm" / f"{split}.jsonl", *rows)
    load = datasets.load_dataset
    cache = str(tmp_path / "cache")
    monkeypatch.setattr(
        datasets,
        "load_dataset",
        lambda name, config, split: load(str(tmp_path / name), config, split=split, cache_dir=cache),
    )
    loaded = module._from_hub("gsm")
    assert [(one.question_id, *one.turns, one.reference) for one in loaded] == [
        (1, "test 0?", "0"),
        (2, "test 1?", "1"),
        (3, "test 2?", "2"),
    ]
    assert module._from_hub("gsm::train")[2].turns == ("train 2?",)
    assert "Unknown split \"dev\". Should be one of ['train', 'test'] (check the name" in refused("gsm::dev")
    assert "no-such" in refused("gsm:no-such")


# -- draws and digests ----------------------------------------------------------------------------------------------

drawable = st.lists(st.sampled_from("abcd"), max_size=40).map(
    lambda names: [Question(number, name, name, ("x",)) for number, name in enumerate(names)]
)
limits = st.none() | st.integers(1, 12)
seeds = st.integers(0, 2**32)


def by_group(questions: list[Question]) -> dict[str, list[Question]]:
    found: dict[str, list[Question]] = {}
    for question in questions:
        found.setdefault(question.group, []).append(question)
    return found


@given(drawable, limits, seeds)
def test_a_draw_is_so_many_of_each_group(questions: list[Question], limit: int | None, seed: int) -> None:
    drawn = draw(questions, limit, seed)
    assert drawn == draw(questions, limit, seed)
    assert set(drawn) <= set(questions)
    assert len(set(drawn)) == len(drawn)
    assert [one.group for one in drawn] == sorted(one.group for one in drawn)
    wanted = {
        name: len(group) if limit is None else min(limit, len(group)) for name, group in by_group(questions).items()
    }
    assert groups(drawn) == wanted
    for name, group in by_group(drawn).items():
        if len(group) == len(by_group(questions)[name]):
            assert limit != len(group) or group == by_group(questions)[name]


@given(drawable, limits, seeds, st.randoms(use_true_random=False))
def test_how_groups_are_interleaved_does_not_matter(
    questions: list[Question], limit: int | None, seed: int, shuffled: random.Random
) -> None:
    left = by_group(questions)
    names = [one.group for one in questions]
    shuffled.shuffle(names)
    assert draw([left[name].pop(0) for name in names], limit, seed) == draw(questions, limit, seed)


@given(drawable.filter(bool), seeds)
def test_draws_are_those_of_the_published_figures(questions: list[Question], seed: int) -> None:
    own = by_group(questions)
    limit = min(map(len, own.values()))
    rng = random.Random(seed)
    expected = [
        one for name in sorted(own) for one in (own[name] if len(own[name]) == limit else rng.sample(own[name], limit))
    ]
    assert draw(questions, limit, seed) == expected


def test_small_groups_take_nothing_from_the_generator() -> None:
    small = [Question(number, "a", "a", ("x",)) for number in range(3)]
    large = [Question(number, "b", "b", ("x",)) for number in range(30)]
    assert draw([*small, *large], 3, 1) == [*small, *draw(large, 3, 1)]
    assert draw(large, 3, 1) == random.Random(1).sample(large, 3)
    assert draw(large, 3, 1) != draw(large, 3, 2)


@pytest.mark.parametrize("limit", [0, -1])
def test_limits_below_one(limit: int) -> None:
    with pytest.raises(ConfigError, match=f"at least 1 question a group, not {limit}"):
        draw([], limit, 0)


def test_a_digest_sees_every_field_and_the_order() -> None:
    one = Question(1, "c", "g", ("x", "y"), "r", "s")
    changes: list[dict[str, Any]] = [
        {"question_id": "1"},
        {"category": "d"},
        {"group": "h"},
        {"turns": ("xy",)},
        {"reference": None},
        {"source": "t"},
    ]
    assert {name for change in changes for name in change} == {field.name for field in attrs.fields(Question)}
    variants = [[one], [], [one, one], *([attrs.evolve(one, **change)] for change in changes)]
    assert len({digest(variant) for variant in variants}) == len(variants)
    other = attrs.evolve(one, question_id=2)
    assert digest([one, other]) != digest([other, one])


def test_a_digest_is_the_same_for_ever() -> None:
    expected = "e8a02ee46d6ea4379ecab2bb97861c1ceeb634a4979bb976271243136e0d6b4f"
    assert digest([Question(1, "qa", "set", ("Why é?", "\n"), None, "set.jsonl")]) == expected
