"""Rows of question files and data sets: what they must hold, and the questions made of them."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable, Iterable
from typing import Any

import attrs
from cattrs import ClassValidationError
from cattrs.gen import make_dict_structure_fn, override

from racer.bench.converter import converter
from racer.bench.questions.question import Question
from racer.errors import ConfigError

EXPECTED = "expected one object a line with question_id, category and turns, or prompt"
MT_BENCH = {"writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities"}
"""Reported as one group, as Spec-Bench does."""
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


@attrs.frozen
class TurnsRow:
    """Spec-Bench's format."""

    turns: list[str]
    question_id: int | str
    category: str
    reference: list[Any]
    """All texts of a reference: Spec-Bench has one for each turn, or, nested, one for each spelling."""


@attrs.frozen
class PromptRow:
    """The short form: all but the prompt may be left out."""

    prompt: str
    question_id: int | str
    category: str
    reference: list[Any]

    @property
    def turns(self) -> list[str]:
        return [self.prompt]


def questions_of(source: str, unit: str, name: str, rows: Iterable[tuple[int, dict[str, Any]]]) -> list[Question]:
    """The rows of a source as questions, with their groups.

    :param unit: what a row is called in messages, which number them.
    :param name: the group of a source of one category.
    :raises ConfigError: a row is not of the format; the message names it and what is accepted.
    """
    seen: dict[int | str, int] = {}
    questions = []
    for number, row in rows:
        where = f"{shown(source)}, {unit} {number}"
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
    kind: type[TurnsRow | PromptRow] = PromptRow if "prompt" in row and "turns" not in row else TurnsRow
    implied = {"question_id": number, "category": name} if kind is PromptRow else {}
    try:
        found = converter.structure({"reference": None, **implied, **row}, kind)
    except ClassValidationError as error:
        fault, note = error.group_exceptions()[0][0]
        told = f"no {note.name}: {EXPECTED}" if isinstance(fault, KeyError) else f"{note.name} {fault}"
        raise ConfigError(f"{where}: {told}") from error
    answers = found.reference
    if len(answers) == len(found.turns):  # one for each turn: an answer ends with the last
        answers = answers[-1:]
    answer = next((str(one) for one in answers if one is not None and str(one).strip()), None)
    if any(map(_LONE_SURROGATE.search, (str(found.question_id), found.category, *found.turns, answer or ""))):
        raise ConfigError(f"{where}: half of a surrogate pair, which is no text: write the whole character")
    return Question(found.question_id, found.category, found.category, tuple(found.turns), answer)


def is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def is_id(value: object) -> bool:
    return type(value) is int or is_text(value)  # True is no number


def is_reference(value: object) -> bool:
    return all(type(one) in (str, int, float, type(None)) and one == one for one in _answers(value))  # nor is NaN


def _are_turns(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(map(is_text, value))


def _answers(reference: Any) -> list[Any]:
    listed = reference if isinstance(reference, list) else [reference]
    return [answer for one in listed for answer in (one if isinstance(one, list) else [one])]


def shown(source: str) -> str:
    """A name that fits in one line, whatever is in it."""
    return source if source.isprintable() else ascii(source)


def _checked(fits: Callable[[Any], bool], accepted: str, kept: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
    """A hook that refuses what does not fit."""

    def structure(value: Any, _: Any) -> Any:
        if not fits(value):
            raise ValueError(f"must be {accepted}, not {reprlib.repr(value)}")
        return kept(value)

    return structure


def _same(value: Any) -> Any:
    return value


_TEXT = _checked(is_text, "a non-empty text", _same)
_FIELDS = {
    "turns": _checked(_are_turns, "a list of non-empty texts", _same),
    "prompt": _TEXT,
    "question_id": _checked(is_id, "a whole number or a non-empty text", _same),
    "category": _TEXT,
    "reference": _checked(is_reference, "a text, a number or a list of texts", _answers),
}
for _row in (TurnsRow, PromptRow):  # which may have more fields than these
    _hooks: dict[str, Any] = {field.name: override(struct_hook=_FIELDS[field.name]) for field in attrs.fields(_row)}
    _structure = make_dict_structure_fn(_row, converter, _cattrs_forbid_extra_keys=False, **_hooks)
    converter.register_structure_hook(_row, _structure)
