"""The files of a run's folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs

from racer.bench.answers import write_answers
from racer.bench.converter import plain
from racer.bench.questions import Question
from racer.bench.report import write_report
from racer.bench.run.journal import Journal
from racer.bench.run.setup import Setup
from racer.bench.summary import summarise
from racer.errors import ConfigError
from racer.files import write_whole


@attrs.frozen(kw_only=True)
class RunState:
    """What the ``setup`` of ``results.json`` has beside :class:`Setup`: how far the run has come, and how."""

    command: str
    score: bool
    """Whether answers are compared with the questions' references."""
    trials_total: int
    trials_done: int
    complete: bool


@attrs.frozen
class Folder:
    """Where a run is kept: ``setup.json`` and ``trials.jsonl`` while it runs, the results made of them."""

    path: Path

    @classmethod
    def at(cls, path: Path) -> Folder:
        """Make it if need be.

        :raises ConfigError: it is no folder, or cannot be written.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
            (path / ".probe").touch()
            (path / ".probe").unlink()
        except OSError as error:
            raise ConfigError(f"cannot write to {path}: {error.strerror or error}; give another --output") from error
        return cls(path)

    @property
    def setup(self) -> Path:
        return self.path / "setup.json"

    @property
    def trials(self) -> Path:
        return self.path / "trials.jsonl"

    @property
    def begun(self) -> bool:
        """Whether there are trials."""
        return self.trials.exists() and self.trials.stat().st_size > 0

    def write(self, journal: Journal, questions: Sequence[Question], setup: Setup, state: RunState) -> dict[str, Any]:
        """Results, report and answer files from what the journal has; the results."""
        sample = setup.temperature > 0
        found = summarise(journal, questions, setup.methods, sample=sample, score=state.score)
        results = {"setup": plain(setup) | plain(state), **found}
        text = json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False)
        write_whole(self.path / "results.json", text + "\n")
        write_answers(self.path / "answers", journal, questions, setup.methods)
        write_report(results, self.path)
        return results
