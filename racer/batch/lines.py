"""The lines of the input file, one after another, and what each is called."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import xxhash

from racer.errors import RacerError

OPENAI_KEYS = ("custom_id", "method", "url", "body")
"""A line that has one of these is in OpenAI's batch format, any other is a plain one."""


class LineError(RacerError):
    """A line that cannot be answered as it is; the run goes on without it."""


@attrs.frozen
class Line:
    """One line of the input, identified but not yet understood."""

    number: int
    """In the file, from 1."""
    id: str | int
    """``custom_id`` or ``id``; the number of the line where it has none that could be used."""
    digest: str
    """Of its bytes: another text has another one."""
    data: Mapping[str, Any] = attrs.field(factory=dict, repr=False)
    fault: str | None = None
    """Why it is no request at all."""

    @property
    def key(self) -> str:
        """The id as JSON: the text ``"7"`` and the number 7 are two ids."""
        return json.dumps(self.id)

    @property
    def openai(self) -> bool:
        """Whether it is in OpenAI's batch format."""
        return any(key in self.data for key in OPENAI_KEYS)


def read(path: Path) -> Iterator[Line]:
    """All lines of a file that are not blank; one at a time is in memory.

    :raises OSError: it cannot be read.
    """
    with path.open("rb") as file:
        for number, data in enumerate(file, start=1):
            text = data.removeprefix(codecs.BOM_UTF8).strip() if number == 1 else data.strip()
            if text:
                yield _identified(number, text)


def _identified(number: int, text: bytes) -> Line:
    digest = xxhash.xxh3_64_hexdigest(text)
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, or nested beyond reason
        return Line(number, number, digest, fault=f"this line is no JSON: {_reason(error)}")
    if not isinstance(data, dict):
        return Line(number, number, digest, fault=f"a line must be a JSON object, not {type(data).__name__}")
    name = next((name for name in ("custom_id", "id") if data.get(name) is not None), None)
    found = number if name is None else data[name]
    if isinstance(found, bool) or not isinstance(found, str | int):
        return Line(number, number, digest, data, fault=f"{name!r} must be a text or a whole number")
    return Line(number, found, digest, data)


def _reason(error: ValueError | RecursionError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at column {error.colno}"
    return "it is not in UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
