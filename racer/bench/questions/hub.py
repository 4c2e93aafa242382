"""Questions in a data set of the Hugging Face hub."""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any

from racer.bench.questions.question import Question
from racer.bench.questions.records import is_id, is_reference, is_text, questions_of, shown
from racer.errors import ConfigError, first_line
from racer.loading import models

PROMPT_COLUMNS = ("turns", "prompt", "question", "problem", "instruction", "text")
REFERENCE_COLUMNS = ("reference", "answer", "solution")
_HUB_NAME = re.compile(r"(?!.*\.(jsonl?|txt|md)$)[a-z0-9_][\w.-]*(/[\w.-]+)?", re.ASCII | re.IGNORECASE)


def from_hub(source: str) -> list[Question]:
    """All questions of ``NAME``, ``NAME:CONFIG`` or ``NAME:CONFIG:SPLIT``.

    :raises ConfigError: there is no such data set, or no text in it.
    """
    name, config, split = (*source.split(":", 2), "", "")[:3]
    if not _HUB_NAME.fullmatch(name) or not source.isprintable():
        raise ConfigError(f"no such question file: {shown(source) or '(empty name)'}")
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
    telling = all(map(is_id, ids)) and len(set(ids)) == len(ids)
    for number, row in rows.items():
        row["turns"] = [row[asked]] if isinstance(row[asked], str) else row[asked]
        row["question_id"] = row["question_id"] if telling else number
        row["category"] = row["category"] if is_text(row.get("category")) else name
        row["reference"] = row[answered] if answered and is_reference(row[answered]) else None
    return questions_of(source, "row", name, rows.items())
