"""The journal: what is written is there again, whatever happened to the process."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from racer.bench.trials import Journal, Measured, Trial
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
