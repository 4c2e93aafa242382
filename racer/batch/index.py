"""Which ids the input has, and which of them are answered: on the disk, so that memory does not grow with the file."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

import attrs

from racer.batch.lines import Line
from racer.errors import ConfigError

NAMED = 5
"""Duplicates that a message names; there may be millions."""


@attrs.frozen
class Entry:
    """What is known of an id."""

    number: int
    """Its line in the input."""
    digest: str
    done: bool


class Index:
    """All ids of an input file.

    SQLite keeps them in a private temporary file, which goes when the index is closed or the process ends.

    :param lines: all of the input, read once.
    :raises ConfigError: an id occurs twice; the message names the lines.
    """

    def __init__(self, lines: Iterable[Line]) -> None:
        self._base = sqlite3.connect("", isolation_level=None)
        self._base.execute(
            "CREATE TABLE lines (key TEXT PRIMARY KEY, number INTEGER, digest TEXT, done INTEGER) WITHOUT ROWID"
        )
        self._base.execute("BEGIN")
        self.total = self.done = 0
        try:
            self._fill(lines)
        except BaseException:
            self.close()
            raise

    def _fill(self, lines: Iterable[Line]) -> None:
        twice: list[str] = []
        for line in lines:
            added = self._base.execute(
                "INSERT OR IGNORE INTO lines VALUES (?, ?, ?, 0)", (line.key, line.number, line.digest)
            ).rowcount
            if not added:
                first = self._base.execute("SELECT number FROM lines WHERE key = ?", (line.key,)).fetchone()[0]
                twice.append(f"{line.key} (lines {first} and {line.number})")
            self.total += added
        if twice:
            more = f", and {len(twice) - NAMED} more" if len(twice) > NAMED else ""
            raise ConfigError(
                f"ids must be unique, and these occur twice: {', '.join(twice[:NAMED])}{more} (a line without "
                "'custom_id' or 'id' has its number as id)"
            )

    def find(self, key: str) -> Entry | None:
        """What is known of an id, given as JSON; None if the input has no such id."""
        found = self._base.execute("SELECT number, digest, done FROM lines WHERE key = ?", (key,)).fetchone()
        return None if found is None else Entry(found[0], found[1], bool(found[2]))

    def mark(self, key: str) -> None:
        """It is answered."""
        self._base.execute("UPDATE lines SET done = 1 WHERE key = ?", (key,))
        self.done += 1

    def close(self) -> None:
        """Forget all."""
        self._base.close()
