"""Files of a run that are JSON, but of another shape: one line says so, whatever it is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from racer.bench.converter import plain
from racer.bench.run.journal import Journal
from racer.bench.run.setup import Setup, Source, _read
from racer.bench.trials import Measured, Trial
from racer.errors import ConfigError

TRIAL = plain(
    Trial(
        number=0, turn=0, method="none", group="g", rows=[0], prompt_tokens=[3], time=1.0, texts=["a"],
        measured=Measured(tokens=[[1, 2]], accept_lengths=[[1]], seconds=0.5, step_milliseconds=[None, 1.0]),
    )
)  # fmt: skip
SETUP = plain(
    Setup(
        model="m", model_digest="d", dtype="bfloat16", device="cpu", device_name="c", machine="c", cores=2, threads=1,
        platform="p", python="3", torch="2", transformers="5", racer="0", commit=None, date="today",
        questions=[Source(source="builtin", count=1)], digest="d", groups={"g": 1}, methods=["none"], lossy=[],
        max_new_tokens=8, seed=0, temperature=0.0, top_p=1.0, batch_size=1, cold=False, compile="auto", pack=False,
        budget="auto", limit=None,
    )
)  # fmt: skip
GAPS = {"gaps_of": [0, 0, "none"], "gaps": [0.5, None]}
ODD: list[Any] = [
    None, True, -1, 0, 10**400, 1.5, float("nan"), float("inf"), "", "x", [], [None], [[]], {}, {"a": 1}, [1, "x"],
]  # fmt: skip


def changed(data: Any) -> Iterator[Any]:
    """With one part, however deep, in another shape, or missing, or one too many."""
    yield from ODD
    if isinstance(data, dict):
        yield data | {"one more": 1}
        for name in data:
            yield {other: value for other, value in data.items() if other != name}
            yield from (data | {name: part} for part in changed(data[name]))
    if isinstance(data, list):
        for place, part in enumerate(data):
            yield from ([*data[:place], odd, *data[place + 1 :]] for odd in changed(part))


@pytest.mark.parametrize("sound", [TRIAL, GAPS], ids=["trial", "gaps"])
def test_lines_of_the_journal(sound: Any, tmp_path: Path) -> None:
    path, refused = tmp_path / "trials.jsonl", 0
    for odd in changed(sound):
        path.write_text(json.dumps(odd) + "\n")
        try:
            journal = Journal.open(path)
        except ConfigError as error:
            refused += "line 1 is damaged" in str(error) and "\n" not in str(error)
            continue
        for trial in journal.trials.values():
            assert trial.measured is not None
            assert 0 < trial.measured.seconds < float("inf")
            assert min(trial.number, trial.turn, *trial.rows) >= 0
    assert refused > 50


def test_the_setup(tmp_path: Path) -> None:
    path = tmp_path / "setup.json"
    for odd in changed(SETUP):
        path.write_text(json.dumps(odd))
        with suppress(ConfigError):
            _read(path)


def test_answers_to_questions_that_are_not_asked(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    path.write_text(json.dumps(TRIAL | {"rows": [7]}) + "\n")
    Journal.open(path).check_rows(8)
    with pytest.raises(ConfigError, match="answers to questions that this run has not"):
        Journal.open(path).check_rows(7)
