"""The journal: what is written is there again, whatever happened to the process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from racer.bench.converter import plain
from racer.bench.run.journal import Journal
from racer.bench.trials import Measured, Trial
from racer.errors import ConfigError


def trial(number: int = 0, method: str = "none", **changes: object) -> Trial:
    measured = Measured(
        tokens=[[1, 2, 3]],
        accept_lengths=[[1, 1]],
        seconds=0.5,
        nodes=[1, 1],
        step_milliseconds=[None, 2.0],
        milliseconds={"forward": 1.0},
        reliability={"path": [[1.0, 0.5, 1.0]]},
        seeds=[7],
    )
    given: dict[str, object] = {
        "number": number, "turn": 0, "method": method, "group": "g", "rows": [0], "prompt_tokens": [4], "time": 1.0,
        "measured": measured, "texts": ["Straße\n你好"], "peak_bytes": None,
    }  # fmt: skip
    return Trial(**(given | changes))  # type: ignore[arg-type]


def test_a_journal_gives_back_what_it_was_given(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    journal = Journal.open(path)
    journal.add(trial())
    journal.add(trial(1, "racer", measured=None, texts=[], error="boom"))
    journal.add_gaps((0, 0, "racer"), [None, 0.25])
    again = Journal.open(path)
    assert list(again.trials.values()) == [trial()]  # the failed one is to be tried again
    assert again.gaps == journal.gaps == {(0, 0, "racer"): [None, 0.25]}


@given(cut=st.integers(1, 400))
def test_a_line_cut_off_while_being_written_is_measured_again(
    cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("run") / "trials.jsonl"
    journal = Journal.open(path)
    journal.add(trial(0))
    journal.add(trial(1))
    data = path.read_bytes()
    last = len(data) - data[:-1].rfind(b"\n") - 1
    path.write_bytes(data[: -min(cut, last)])
    again = Journal.open(path)
    assert list(again.trials) == [(0, 0, "none")]
    again.add(trial(1))
    assert path.read_bytes() == data


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    journal = Journal.open(path)
    journal.add(trial())
    with path.open("a") as file:
        file.write('{"number": 1}\n')
    with pytest.raises(ConfigError, match="line 2 is damaged"):
        Journal.open(path)


WRONG = [
    ("[]", "expected an object, not []"),
    ('"trial"', "expected an object, not 'trial'"),
    ("null", "expected an object, not None"),
    ("3", "expected an object, not 3"),
    ("{}", "required field missing @ $.number"),
    ("[" * 100_000, "maximum recursion depth exceeded"),
    ('{"gaps_of": 5, "gaps": []}', "@ $.gaps_of"),
    ('{"gaps_of": [0, 0], "gaps": []}', "@ $.gaps_of"),
    ('{"gaps_of": [0, 0, "racer"], "gaps": null}', "expected list @ $.gaps"),
    ('{"gaps_of": [0, 0, "racer"], "gaps": ["x"]}', "@ $.gaps[0]"),
    ('{"gaps_of": [0, 0, "racer"]}', "required field missing @ $.gaps"),
]
CHANGED: list[tuple[str, Any, str]] = [
    ("number", "0", "expected int, not '0' @ $.number"),
    ("number", True, "expected int, not True @ $.number"),
    ("number", 0.5, "expected int, not 0.5 @ $.number"),
    ("method", None, "expected str, not None @ $.method"),
    ("rows", {}, "an answer each"),
    ("rows", [0, 1], "its 2 rows have not an answer each"),
    ("rows", ["0"], "expected int, not '0' @ $.rows[0]"),
    ("time", "now", "expected float, not 'now' @ $.time"),
    ("texts", None, "expected list @ $.texts"),
    ("measured", None, "neither an error nor what was measured"),
    ("measured", [], "expected an object @ $.measured"),
    (
        "measured",
        {"tokens": [[1]], "accept_lengths": [[1]], "seconds": 1.0, "milliseconds": []},
        "$.measured.milliseconds",
    ),
    ("measured", {"tokens": []}, "required field missing @ $.measured.accept_lengths"),
    ("measured", {"tokens": 3, "accept_lengths": [[1]], "seconds": 1.0}, "expected list @ $.measured.tokens"),
    ("more", 1, "extra fields found (more) @ $"),
]


def refused(path: Path, line: str) -> str:
    """The one line of a refusal, where the second line of a journal is this."""
    journal = Journal.open(path)
    journal.add(trial())
    with path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ConfigError) as caught:
        Journal.open(path)
    text = str(caught.value)
    assert text.isprintable()
    assert len(text) < len(str(path)) + 300
    assert text.startswith(f"{path}, line 2 is damaged (")
    assert text.endswith("): delete the line to have it measured again")
    return text


@pytest.mark.parametrize(("line", "words"), WRONG, ids=[line[:40] for line, _ in WRONG])
def test_json_of_another_shape_is_named(line: str, words: str, tmp_path: Path) -> None:
    assert words in refused(tmp_path / "trials.jsonl", line)


@pytest.mark.parametrize(("field", "value", "words"), CHANGED, ids=[f"{name}-{value}" for name, value, _ in CHANGED])
def test_a_field_of_another_type_is_named(field: str, value: Any, words: str, tmp_path: Path) -> None:
    data = plain(trial()) | {field: value}
    assert words in refused(tmp_path / "trials.jsonl", json.dumps(data))


def test_the_journals_format_is_the_same_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    journal = Journal.open(path)
    journal.add(trial())
    journal.add_gaps((0, 0, "racer"), [None, 0.25])
    assert path.read_text(encoding="utf-8").splitlines() == [
        '{"number": 0, "turn": 0, "method": "none", "group": "g", "rows": [0], "prompt_tokens": [4], "time": 1.0, '
        '"measured": {"tokens": [[1, 2, 3]], "accept_lengths": [[1, 1]], "drafted": 0, "kept": 0, "seconds": 0.5, '
        '"first_token_seconds": null, "nodes": [1, 1], "step_milliseconds": [null, 2.0], '
        '"milliseconds": {"forward": 1.0}, "reliability": {"path": [[1.0, 0.5, 1.0]]}, "seeds": [7]}, '
        '"texts": ["Straße\\n你好"], "peak_bytes": null, "error": null, "complaint": null}',
        '{"gaps_of": [0, 0, "racer"], "gaps": [null, 0.25]}',
    ]
