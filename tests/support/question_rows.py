"""Question files, and what is told of them, for tests of the questions."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from racer.bench.questions import Question, load_questions
from racer.errors import ConfigError

HINT = "expected one object a line with question_id, category and turns, or prompt"


def row(question_id: int | str = 1, category: str = "qa", **fields: Any) -> dict[str, Any]:
    """A line in Spec-Bench's format."""
    return {"question_id": question_id, "category": category, "turns": ["Why?"], **fields}


def write(path: Path, *rows: dict[str, Any]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    return str(path)


def refused(*sources: str) -> str:
    """The one line of a refusal."""
    with pytest.raises(ConfigError) as caught:
        load_questions(sources)
    assert str(caught.value).isprintable(), "more than one line, or what a terminal cannot show"
    return str(caught.value)


def groups(questions: list[Question]) -> dict[str, int]:
    return dict(Counter(question.group for question in questions))
