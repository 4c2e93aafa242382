"""Reading a corpus: text files, JSONL files and folders of both, piece by piece."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs

from racer_datastore.format import DatastoreError

SUFFIXES = (".txt", ".md", ".jsonl")
"""Files that are taken from a folder; a file that is named itself may be called anything."""
PIECE = 1 << 16
"""Characters of a text file that are tokenised at once, up to the end of the line."""


@attrs.frozen
class Piece:
    """A part of a corpus."""

    text: str
    size: int
    """Bytes of the file that it took, for a progress bar."""
    ends: bool
    """Whether the text that it belongs to ends with it."""


def list_files(sources: Sequence[str | Path]) -> list[Path]:
    """The files that ``sources`` (files and folders) name, in their order; folders are searched through, sorted.

    :raises DatastoreError: a source does not exist, or a folder holds no file with one of ``SUFFIXES``.
    """
    files: list[Path] = []
    for source in map(Path, sources):
        if source.is_dir():
            inside = sorted(file for file in source.rglob("*") if file.is_file() and file.suffix in SUFFIXES)
            if not inside:
                raise DatastoreError(f"folder {source} holds no {', '.join(SUFFIXES)} file")
            files += inside
        elif source.is_char_device() or source.is_block_device():  # some of which never end
            raise DatastoreError(f"corpus {source} is a device")
        elif source.exists():
            files.append(source)
        else:
            raise DatastoreError(f"corpus {source} does not exist")
    return files


def read(file: Path, field: str = "text") -> Iterator[Piece]:
    """The pieces of one file. A ``.jsonl`` file holds one object a line, whose ``field`` is a text or a list of texts;
    any other file is one text, in UTF-8.

    :raises DatastoreError: unreadable, not UTF-8, or not such JSON; the message names the line.
    """
    try:
        yield from _objects(file, field) if file.suffix == ".jsonl" else _lines(file)
    except UnicodeDecodeError as error:
        raise DatastoreError(f"{file} is not UTF-8 text: {error.reason} at byte {error.start}") from error
    except OSError as error:
        raise DatastoreError(f"cannot read {file}: {error.strerror or error}") from error


def _lines(file: Path) -> Iterator[Piece]:
    with open(file, encoding="utf-8-sig") as lines:
        while text := "".join(lines.readlines(PIECE)):
            yield Piece(text, len(text.encode()), ends=False)
    yield Piece("", 0, ends=True)


def _objects(file: Path, field: str) -> Iterator[Piece]:
    with open(file, encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            texts = _texts(line, field, f"{file}, line {number}")
            size = len(line.encode())
            for text in texts:
                yield Piece(text, size, ends=True)
                size = 0


def _texts(line: str, field: str, where: str) -> list[str]:
    try:
        item: Any = json.loads(line)
    except (ValueError, RecursionError) as error:  # also: a number of thousands of digits, brackets a thousand deep
        raise DatastoreError(f"{where}: not JSON: {getattr(error, 'msg', error)}") from error
    if not isinstance(item, dict) or field not in item:
        raise DatastoreError(f"{where}: no object with a field {field!r}; --field names another")
    value = item[field]
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise DatastoreError(f"{where}: field {field!r} is neither a text nor a list of texts")
    return texts
