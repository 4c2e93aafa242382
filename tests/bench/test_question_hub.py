"""Questions in data sets of the hub."""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from racer.bench.questions import Question, load_questions
from racer.bench.questions import hub as module
from support.question_rows import refused, write


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
    loaded = module.from_hub("gsm")
    assert [(one.question_id, *one.turns, one.reference) for one in loaded] == [
        (1, "test 0?", "0"),
        (2, "test 1?", "1"),
        (3, "test 2?", "2"),
    ]
    assert module.from_hub("gsm::train")[2].turns == ("train 2?",)
    assert "Unknown split \"dev\". Should be one of ['train', 'test'] (check the name" in refused("gsm::dev")
    assert "no-such" in refused("gsm:no-such")
