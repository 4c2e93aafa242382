"""Questions by name: built in, in files, or on the hub."""

from __future__ import annotations

import codecs
import json
import os
import re
import reprlib
import stat
from collections.abc import Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from racer.bench.questions.hub import from_hub
from racer.bench.questions.question import Question
from racer.bench.questions.records import EXPECTED, questions_of, shown
from racer.errors import ConfigError, first_line

BUILTIN = "builtin"


def load_questions(sources: Sequence[str]) -> list[Question]:
    """All questions of all sources, in order.

    :param sources: ``builtin``; a ``.jsonl`` file; any other text file, which is one prompt; or ``NAME``,
        ``NAME:CONFIG`` or ``NAME:CONFIG:SPLIT`` of a data set on the hub.
    :raises ConfigError: a source is not there or is malformed; the message names the line and what is accepted.
    """
    if not sources:
        raise ConfigError(f"no questions given: name {BUILTIN!r}, a .jsonl or text file, or a Hugging Face data set")
    several = sum(_exists(source) and not source.lower().endswith(".jsonl") for source in sources) > 1
    return [question for source in sources for question in _load(source, "text" if several else None)]


def _load(source: str, text_group: str | None) -> list[Question]:
    if source == BUILTIN:
        return _from_jsonl(source, resources.files(__package__) / "builtin.jsonl", "questions")
    if not _exists(source):
        return from_hub(source)
    path = Path(source).expanduser()
    if os.path.isdir(path):  # which is silent about what may not be seen
        beneath = ", ".join(str(file) for file in sorted(path.rglob("question*.jsonl"))[:3])
        mend = f"name a question file, such as {shown(beneath)}" if beneath else "name a .jsonl or text file"
        raise ConfigError(f"{shown(source)} is a folder: {mend}")
    if _is_device(path):
        raise ConfigError(f"{shown(source)} is a device: name a .jsonl or text file")
    if source.lower().endswith(".jsonl"):
        # sets of one category are told apart by their folders: human_eval/question.jsonl, mgsm/question.jsonl
        by_folder = path.name.lower() in ("question.jsonl", "questions.jsonl")
        return _from_jsonl(source, path, (by_folder and Path(os.path.abspath(path)).parent.name) or path.stem)
    text, group = _read(source, path), text_group or path.stem
    if not text.strip():
        raise ConfigError(f"{shown(source)} is empty: a text file is one prompt")
    return [Question(path.name, group, group, (text,), source=source)]


def _exists(source: str) -> bool:
    try:
        Path(source).expanduser().stat()
    except PermissionError:
        return True  # reading it will tell
    except (OSError, ValueError, RuntimeError):  # also: too long, a NUL within, the home of nobody
        return False
    return source not in ("", BUILTIN)


def _is_device(path: Path) -> bool:
    """Whether reading it might never end."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False  # reading it will tell
    return stat.S_ISCHR(mode) or stat.S_ISBLK(mode)


def _read(source: str, place: Traversable) -> str:
    try:
        data = place.read_bytes().removeprefix(codecs.BOM_UTF8)
    except OSError as error:
        raise ConfigError(f"cannot read {shown(source)}: {error.strerror} (give a file that you may read)") from error
    try:
        if (start := data.find(b"\0")) < 0:
            return data.decode()
        fault = "a NUL byte, so no plain text: give a text file in UTF-8"
    except UnicodeDecodeError as error:
        start, fault = error.start, f"not UTF-8 (byte 0x{data[error.start]:02x}): convert it to UTF-8"
    line = data.count(b"\n", 0, start) + 1
    raise ConfigError(f"{shown(source)}, line {line}: {fault}")


def _from_jsonl(source: str, place: Traversable, name: str) -> list[Question]:
    # not splitlines: JSON allows U+2028 and the like inside of strings
    lines = enumerate(_read(source, place).split("\n"), 1)
    rows = ((number, _parse(f"{shown(source)}, line {number}", line)) for number, line in lines if line.strip())
    if not (questions := questions_of(source, "line", name, rows)):
        raise ConfigError(f"{shown(source)} has no questions: {EXPECTED}")
    return questions


def _parse(where: str, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:  # also: a number of thousands of digits, brackets a thousand deep
        fault = re.sub(r"(?: at|: )?: line 1 (column \d+).*", r" at \1", first_line(error))
        raise ConfigError(f"{where}: not valid JSON ({fault}): {EXPECTED}") from error
    if not isinstance(row, dict):
        raise ConfigError(f"{where}: not an object but {reprlib.repr(row)}: {EXPECTED}")
    return row
