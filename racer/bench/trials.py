"""One measured call, and the journal that keeps them all on the disk."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs

from racer.errors import ConfigError

Key = tuple[int, int, str]
"""Number of the batch of questions, turn, method."""


@attrs.frozen(kw_only=True)
class Measured:
    """What one call of one method gave and cost."""

    tokens: list[list[int]]
    """Per row: new tokens, the end token included, padding not."""
    accept_lengths: list[list[int]]
    """Per row: new tokens of each step after the prefill, bonus token included."""
    drafted: int = 0
    """Nodes that were guessed, in all rows."""
    kept: int = 0
    """Those whose tokens are in the answers."""
    seconds: float
    """Of the whole call, prefill included."""
    first_token_seconds: float | None = None
    nodes: list[int] = attrs.field(factory=list)
    """Columns that each step's forward pass scored."""
    step_milliseconds: list[float | None] = attrs.field(factory=list)
    """Wall-clock time of each step, from the end of the one before; None where that is unknown."""
    milliseconds: dict[str, float] | None = None
    """By phase, summed over the call; None where the method does not tell."""
    reliability: dict[str, list[list[float]]] | None = None
    """Tables of :mod:`racer.bench.reliability`, if the drafter gives scores."""
    seeds: list[int] | None = None
    """Per row: what its sampling noise was keyed by."""


@attrs.frozen(kw_only=True)
class Trial:
    """One turn of one batch of questions, answered by one method."""

    number: int
    """Of the batch of questions in this run."""
    turn: int
    method: str
    group: str
    rows: list[int]
    """Which of the run's questions are in the batch and have this turn."""
    prompt_tokens: list[int]
    time: float
    """Seconds since the epoch when it ended."""
    measured: Measured | None = None
    texts: list[str] = attrs.field(factory=list)
    """Per row: the answer."""
    peak_bytes: int | None = None
    """How far memory grew during the call."""
    error: str | None = None
    """Why there is nothing measured."""
    complaint: str | None = None
    """What went wrong without stopping the method, such as a drafter that fails."""

    @property
    def key(self) -> Key:
        return self.number, self.turn, self.method

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Trial:
        """The inverse of ``attrs.asdict``."""
        measured = data.pop("measured")
        return cls(**data, measured=None if measured is None else Measured(**measured))


@attrs.define
class Journal:
    """Everything a run has found out so far, in memory and, line by line, on the disk."""

    path: Path
    trials: dict[Key, Trial] = attrs.field(factory=dict)
    gaps: dict[Key, list[float | None]] = attrs.field(factory=dict)
    """Of each answer that differs from the plain one: how far the plain model's best two were apart there; None where
    that could not be found out, or nothing else could have been chosen."""

    @classmethod
    def open(cls, path: Path) -> Journal:
        """Read what is there. Trials that failed are forgotten, to be tried again; a last line that was cut off while
        being written is dropped.

        :raises ConfigError: a line is damaged.
        """
        journal = cls(path)
        if not path.exists():
            return journal
        data = path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                journal._take(json.loads(line))
            except (ValueError, TypeError, KeyError) as error:
                raise ConfigError(
                    f"{path}, line {number} is damaged ({error}): delete the line to have it measured again"
                ) from error
        if len(whole) < len(data):
            os.truncate(path, len(whole))
        return journal

    def add(self, trial: Trial) -> None:
        """Keep a trial."""
        self._write(attrs.asdict(trial))
        self.trials[trial.key] = trial

    def add_gaps(self, key: Key, gaps: Sequence[float | None]) -> None:
        """Keep how close the call was where an answer parted from the plain one."""
        self._write({"gaps_of": list(key), "gaps": list(gaps)})
        self.gaps[key] = list(gaps)

    def _take(self, data: dict[str, Any]) -> None:
        if "gaps_of" in data:
            number, turn, method = data["gaps_of"]
            self.gaps[number, turn, method] = data["gaps"]
        else:
            trial = Trial.from_dict(data)
            if trial.error is None:
                self.trials[trial.key] = trial

    def _write(self, data: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(data, ensure_ascii=False, allow_nan=False) + "\n")
