"""What is no question, and no question file, is told in one line."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from racer.bench.questions import load_questions
from support.question_rows import HINT, refused, row, write

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
