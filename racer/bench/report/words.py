"""Tables of the report that hold words: the setup, and what failed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

from racer.bench.report.formats import DASH, count
from racer.bench.report.markdown import code, escape
from racer.bench.report.reading import Run

FAILURES_SHOWN = 20
SETUP = (
    "model", "dtype", "weights", "device", "device_name", "machine", "cores", "threads", "platform", "python", "torch",
    "transformers", "racer", "commit", "date", "questions", "digest", "groups", "methods", "max_new_tokens", "limit",
    "budget", "seed", "temperature", "top_p", "batch_size", "cold", "compile", "pack", "score", "peers",
    "resumed",
)  # fmt: skip


@attrs.frozen
class Table:
    """Cells in Markdown."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    texts: int = 1
    """So many columns are text, and the others figures."""


def failures(run: Run) -> Table | None:
    """The first failures; None if there are none."""
    rows = [
        [
            code(failure.get("method")),
            escape(failure.get("group")),
            code(_listed(failure.get("question_id")), 120),
            count(failure.get("turn")),
            code(failure.get("error"), 240),
        ]
        for failure in run.failures[:FAILURES_SHOWN]
    ]
    return Table(["method", "group", "question", "turn", "error"], rows, texts=5) if rows else None


def setup(run: Run) -> Table:
    """Model, machine, versions, questions and settings."""
    rows = [[name.replace("_", " "), _told(run.setup[name])] for name in SETUP if name in run.setup]
    return Table(["setting", "value"], rows, texts=2)


def _told(value: Any) -> str:
    """A setting in words."""
    if value is None:
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        value = [{"source": name, "count": held} for name, held in value.items()]
    if isinstance(value, list):
        return ", ".join(_counted(item) if isinstance(item, dict) else escape(item) for item in value) or DASH
    return escape(value, 200)


def _counted(item: dict[str, Any]) -> str:
    if "program" in item:
        told = [item.get("name"), "by", item.get("program"), *_list(item.get("options"))]
        return escape(f"{' '.join(map(str, told))} ({item.get('version')})", 200)
    return f"{escape(item.get('source'))} ({count(item.get('count'))})"


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _listed(ids: Any) -> Any:
    """A batch has a list of questions."""
    return ", ".join(map(str, ids)) if isinstance(ids, list) else ids
