"""The journal: all trials of a run, in memory and, line by line, on the disk."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
from cattrs.gen import make_dict_unstructure_fn, override

from racer.bench.converter import converter, line, structured
from racer.bench.trials import Key, Measured, Trial
from racer.errors import ConfigError

# the lines of methods that tell everything are what they have always been
converter.register_unstructure_hook(
    Measured, make_dict_unstructure_fn(Measured, converter, steps=override(omit_if_default=True))
)


@attrs.frozen(kw_only=True)
class Gaps:
    """The other kind of line: how close the call was where an answer parted from the plain one."""

    gaps_of: Key
    gaps: list[float | None]
    """Of each differing answer: how far the plain model's best two were apart there; None where that could not be
    found out, or nothing else could have been chosen."""


@attrs.define
class Journal:
    """Everything a run has found out so far."""

    path: Path
    trials: dict[Key, Trial] = attrs.field(factory=dict)
    gaps: dict[Key, list[float | None]] = attrs.field(factory=dict)
    """See :class:`Gaps`."""

    @classmethod
    def open(cls, path: Path) -> Journal:
        """Read what is there. Trials that failed are forgotten, to be tried again; a last line that was cut off while
        being written is dropped.

        :raises ConfigError: a line is damaged, or is not of this format.
        """
        journal = cls(path)
        if not path.exists():
            return journal
        data = path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        for number, text in enumerate(whole.splitlines(), start=1):
            try:
                journal._take(json.loads(text))
            except (ValueError, RecursionError) as error:
                raise ConfigError(
                    f"{path}, line {number} is damaged ({error}): delete the line to have it measured again"
                ) from error
        if len(whole) < len(data):
            os.truncate(path, len(whole))
        return journal

    def add(self, trial: Trial) -> None:
        """Keep a trial."""
        self._write(trial)
        self.trials[trial.key] = trial

    def add_gaps(self, key: Key, gaps: Sequence[float | None]) -> None:
        """Keep how close the call was where an answer parted from the plain one."""
        self._write(Gaps(gaps_of=key, gaps=list(gaps)))
        self.gaps[key] = list(gaps)

    def check_rows(self, questions: int) -> None:
        """See that all trials are of questions that the run has.

        :raises ConfigError: one is not.
        """
        if any(row >= questions for trial in self.trials.values() for row in trial.rows):
            raise ConfigError(f"{self.path} has answers to questions that this run has not: give another --output")

    def _take(self, data: Any) -> None:
        if isinstance(data, dict) and "gaps_of" in data:
            found = structured(data, Gaps)
            self.gaps[found.gaps_of] = found.gaps
            return
        trial = structured(data, Trial)
        if trial.error is None:
            _check(trial)
            self.trials[trial.key] = trial

    def _write(self, record: Trial | Gaps) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line(record))


def _check(trial: Trial) -> None:
    """A trial without an error has an answer for each row.

    :raises ValueError: it has not.
    """
    if trial.measured is None:
        raise ValueError("it has neither an error nor what was measured")
    if min(trial.number, trial.turn, *trial.rows, 0) < 0:
        raise ValueError("it counts from a number below zero")
    if not 0 < trial.measured.seconds < math.inf:
        raise ValueError(f"it took {trial.measured.seconds} seconds")
    if not len(trial.rows) == len(trial.texts) == len(trial.measured.tokens) == len(trial.measured.accept_lengths):
        raise ValueError(f"its {len(trial.rows)} rows have not an answer each")
