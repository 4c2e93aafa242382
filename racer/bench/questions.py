"""The questions of a benchmark: built in, in files, or in a data set of the Hugging Face hub."""

from __future__ import annotations

import codecs
import hashlib
import json
import os
import random
import re
import reprlib
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module, resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import attrs

from racer.errors import ConfigError, first_line
from racer.loading import models

BUILTIN = "builtin"
MT_BENCH = {"writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities"}
"""Reported as one group, as Spec-Bench does."""
PROMPT_COLUMNS = ("turns", "prompt", "question", "problem", "instruction", "text")
REFERENCE_COLUMNS = ("reference", "answer", "solution")

_LINES = "expected one object a line with question_id, category and turns, or prompt"
_HUB_NAME = re.compile(r"(?!.*\.(jsonl?|txt|md)$)[a-z0-9_][\w.-]*(/[\w.-]+)?", re.ASCII | re.IGNORECASE)
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


@attrs.frozen
class Question:
    """One conversation: turns asked one after the other, from a ``source`` as the user named it."""

    question_id: int | str
    category: str
    group: str
    """What figures are reported by; the category is as in the file."""
    turns: tuple[str, ...]
    reference: str | None = None
    source: str = ""


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


def draw(questions: Sequence[Question], limit: int | None, seed: int) -> list[Question]:
    """At most ``limit`` questions of each group, the same ones whenever the seed is the same; None takes all.

    :raises ConfigError: a limit below 1.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"the limit must be at least 1 question a group, not {limit}")
    groups: dict[str, list[Question]] = {}
    for question in questions:
        groups.setdefault(question.group, []).append(question)
    rng, drawn = random.Random(seed), []
    for _, group in sorted(groups.items()):
        drawn += group if limit is None or limit >= len(group) else rng.sample(group, limit)
    return drawn


def digest(questions: Iterable[Question]) -> str:
    """A fingerprint of all fields in order: tells whether a resumed run has the same questions."""
    fields = [attrs.asdict(question) for question in questions]
    return hashlib.sha256(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _load(source: str, text_group: str | None) -> list[Question]:
    if source == BUILTIN:
        return _from_jsonl(source, resources.files("racer") / "bench" / "data" / "questions.jsonl", "questions")
    if not _exists(source):
        return _from_hub(source)
    path = Path(source).expanduser()
    if os.path.isdir(path):  # which is silent about what may not be seen
        beneath = ", ".join(str(file) for file in sorted(path.rglob("question*.jsonl"))[:3])
        mend = f"name a question file, such as {_shown(beneath)}" if beneath else "name a .jsonl or text file"
        raise ConfigError(f"{_shown(source)} is a folder: {mend}")
    if source.lower().endswith(".jsonl"):
        # sets of one category are told apart by their folders: human_eval/question.jsonl, mgsm/question.jsonl
        by_folder = path.name.lower() in ("question.jsonl", "questions.jsonl")
        return _from_jsonl(source, path, (by_folder and Path(os.path.abspath(path)).parent.name) or path.stem)
    text, group = _read(source, path), text_group or path.stem
    if not text.strip():
        raise ConfigError(f"{_shown(source)} is empty: a text file is one prompt")
    return [Question(path.name, group, group, (text,), source=source)]


def _exists(source: str) -> bool:
    try:
        Path(source).expanduser().stat()
    except PermissionError:
        return True  # reading it will tell
    except (OSError, ValueError, RuntimeError):  # also: too long, a NUL within, the home of nobody
        return False
    return source not in ("", BUILTIN)


def _read(source: str, place: Traversable) -> str:
    try:
        data = place.read_bytes().removeprefix(codecs.BOM_UTF8)
    except OSError as error:
        raise ConfigError(f"cannot read {_shown(source)}: {error.strerror} (give a file that you may read)") from error
    try:
        if (start := data.find(b"\0")) < 0:
            return data.decode()
        fault = "a NUL byte, so no plain text: give a text file in UTF-8"
    except UnicodeDecodeError as error:
        start, fault = error.start, f"not UTF-8 (byte 0x{data[error.start]:02x}): convert it to UTF-8"
    line = data.count(b"\n", 0, start) + 1
    raise ConfigError(f"{_shown(source)}, line {line}: {fault}")


def _from_jsonl(source: str, place: Traversable, name: str) -> list[Question]:
    # not splitlines: JSON allows U+2028 and the like inside of strings
    lines = enumerate(_read(source, place).split("\n"), 1)
    rows = ((number, _parse(f"{_shown(source)}, line {number}", line)) for number, line in lines if line.strip())
    if not (questions := _checked(source, "line", name, rows)):
        raise ConfigError(f"{_shown(source)} has no questions: {_LINES}")
    return questions


def _parse(where: str, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:  # also: a number of thousands of digits, brackets a thousand deep
        fault = re.sub(r"(?: at|: )?: line 1 (column \d+).*", r" at \1", first_line(error))
        raise ConfigError(f"{where}: not valid JSON ({fault}): {_LINES}") from error
    if not isinstance(row, dict):
        raise ConfigError(f"{where}: not an object but {reprlib.repr(row)}: {_LINES}")
    return row


def _from_hub(source: str) -> list[Question]:
    name, config, split = (*source.split(":", 2), "", "")[:3]
    if not _HUB_NAME.fullmatch(name) or not source.isprintable():
        raise ConfigError(f"no such question file: {_shown(source) or '(empty name)'}")
    try:
        datasets = import_module("datasets")
    except ImportError as error:
        raise ConfigError(f"no file {source}, and Hugging Face data sets need: pip install datasets") from error
    try:
        with models.quiet(hub=True):
            loaded = datasets.load_dataset(name, config or None, split=split or None)
            table = loaded if split else loaded["test" if "test" in loaded else next(iter(loaded))]
    except Exception as error:
        mend = "check the name, as NAME:CONFIG:SPLIT, and the network, or give a file"
        raise ConfigError(f"cannot load the data set {source}: {first_line(error)} ({mend})") from error
    return _from_table(source, name.rpartition("/")[2], table)


def _from_table(source: str, name: str, table: Any) -> list[Question]:
    """Data sets follow no format: rows without a text are skipped, ids and the like that do not fit left out."""
    columns = table.column_names
    asked = next((column for column in PROMPT_COLUMNS if column in columns), "")
    answered = next((column for column in REFERENCE_COLUMNS if column in columns), "")
    if not asked:
        expected, found = ", ".join(PROMPT_COLUMNS), ", ".join(columns)
        raise ConfigError(f"the data set {source} has none of the columns {expected}, only {found}: give a file")
    table = table.select_columns([c for c in (asked, answered, "question_id", "category") if c in columns])
    rows = {number: row for number, row in enumerate(table, 1) if str(row[asked] or "").strip()}
    if not rows:
        raise ConfigError(f"the data set {source} has no text in its column {asked}: name another split, or a file")
    ids = [row.get("question_id") for row in rows.values()]
    telling = all(map(_is_id, ids)) and len(set(ids)) == len(ids)
    for number, row in rows.items():
        row["turns"] = [row[asked]] if isinstance(row[asked], str) else row[asked]
        row["question_id"] = row["question_id"] if telling else number
        row["category"] = row["category"] if _is_text(row.get("category")) else name
        row["reference"] = row[answered] if answered and _is_reference(row[answered]) else None
    return _checked(source, "row", name, rows.items())


def _checked(source: str, unit: str, name: str, rows: Iterable[tuple[int, dict[str, Any]]]) -> list[Question]:
    """The rows as questions, with their groups."""
    seen: dict[int | str, int] = {}
    questions = []
    for number, row in rows:
        where = f"{_shown(source)}, {unit} {number}"
        questions.append(attrs.evolve(_question(where, row, number, name), source=source))
        own = questions[-1].question_id
        if (first := seen.setdefault(own, number)) != number:
            raise ConfigError(f"{where}: question_id {own!r:.40} is also that of {unit} {first}: give each its own")
    categories = {question.category for question in questions}
    groups = dict.fromkeys(MT_BENCH & categories, "mt_bench") if len(MT_BENCH & categories) > 1 else {}
    if len(categories) == 1:
        groups = dict.fromkeys(categories, name)
    return [attrs.evolve(one, group=groups.get(one.category, one.category)) for one in questions]


def _question(where: str, row: dict[str, Any], number: int, name: str) -> Question:
    asked = "prompt" if "prompt" in row and "turns" not in row else "turns"
    row = {"reference": None, **({"question_id": number, "category": name} if asked == "prompt" else {}), **row}
    for field in (asked, "question_id", "category", "reference"):
        if field not in row:
            raise ConfigError(f"{where}: no {field}: {_LINES}")
        fits, accepted = _FIELDS[field]
        if not fits(row[field]):
            raise ConfigError(f"{where}: {field} must be {accepted}, not {reprlib.repr(row[field])}")
    turns = (row["prompt"],) if asked == "prompt" else tuple(row["turns"])
    answers = _answers(row["reference"])
    if len(answers) == len(turns):  # one for each turn: an answer ends with the last
        answers = answers[-1:]
    answer = next((str(one) for one in answers if one is not None and str(one).strip()), None)
    if any(map(_LONE_SURROGATE.search, (str(row["question_id"]), row["category"], *turns, answer or ""))):
        raise ConfigError(f"{where}: half of a surrogate pair, which is no text: write the whole character")
    return Question(row["question_id"], row["category"], row["category"], turns, answer)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_id(value: object) -> bool:
    return type(value) is int or _is_text(value)  # True is no number


def _is_reference(value: object) -> bool:
    return all(type(one) in (str, int, float, type(None)) and one == one for one in _answers(value))  # nor is NaN


def _answers(reference: Any) -> list[Any]:
    """All texts of a reference: Spec-Bench has one for each turn, or, nested, one for each spelling."""
    listed = reference if isinstance(reference, list) else [reference]
    return [answer for one in listed for answer in (one if isinstance(one, list) else [one])]


_FIELDS: dict[str, tuple[Callable[[Any], object], str]] = {
    "turns": (lambda it: isinstance(it, list) and it and all(map(_is_text, it)), "a list of non-empty texts"),
    "prompt": (_is_text, "a non-empty text"),
    "question_id": (_is_id, "a whole number or a non-empty text"),
    "category": (_is_text, "a non-empty text"),
    "reference": (_is_reference, "a text, a number or a list of texts"),
}
"""What a field is checked with, and what is told that it must be."""


def _shown(source: str) -> str:
    """A name that fits in one line, whatever is in it."""
    return source if source.isprintable() else ascii(source)
