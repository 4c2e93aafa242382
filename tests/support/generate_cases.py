"""A call of ``generate`` in a table, and the test of it on one model through one of the ways to RACER."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import attrs
import pytest

import racer
from support.generate_calls import LOGITS, NONE, Call, Drafted, Either, Outcome, Plain, Raises, call, faces, judge
from support.generate_models import NAMES, PAD, build, plain_model, prompts

FACES = ("racer.generate", "attached", "custom")
NOT_CUSTOM = ("racer.generate", "attached")
"""For what transformers keeps from a callable: streamers, tokenizers, assistants."""

Ways = tuple[tuple[str, int], ...]
"""Faces, each with a number of rows."""


@attrs.define(frozen=True)
class Case:
    """One call."""

    name: str
    how: dict[str, Any] | Callable[[Any, int], dict[str, Any]]
    """Arguments beside the usual ones, or a function of the model and the number of rows that gives them; one with
    the value ``...`` is left out of the usual ones."""
    expected: Drafted | Plain | Either | Raises = attrs.field(factory=Drafted)
    rows: tuple[int, ...] = (4, 1)
    faces: tuple[str, ...] = FACES
    models: tuple[str, ...] = NAMES
    args: Callable[[dict[str, Any]], tuple[Any, ...]] = lambda how: ()
    """Positional arguments, taken out of the others."""

    def arguments(self, model: Any, rows: int) -> dict[str, Any]:
        usual = {**prompts(rows), "max_new_tokens": 12, "do_sample": False, "pad_token_id": PAD}
        how = self.how(model, rows) if callable(self.how) else self.how
        return {name: value for name, value in {**usual, **how}.items() if value is not ...}


@cache
def attached_model(name: str) -> Any:
    return racer.attach(build(name), LOGITS)


_plain: dict[tuple[str, str, int], Outcome] = {}


def check(case: Case, name: str, ways: Ways) -> None:
    """The case on a model, beside transformers.

    :param ways: faces, each with a number of rows.
    """
    for face, rows in ways:
        _check(case, name, face, rows)


def _check(case: Case, name: str, face: str, rows: int) -> None:
    model = plain_model(name)
    how = case.arguments(model, rows)
    args = case.args(how)
    key = (case.name, name, rows)
    if key not in _plain:
        _plain[key] = call(model.generate, how, args)
    ours = call(faces(model, attached_model(name))[face], how, args)
    drawn = how.get("do_sample") and not ours.reasons and not _plain[key].error
    judge(_without_drafts(model, how, args) if drawn else _plain[key], ours, case.expected)


def _without_drafts(model: Any, how: dict[str, Any], args: tuple[Any, ...]) -> Outcome:
    """What ours is compared with under sampling: its noise is not torch's, and must not depend on drafts."""
    way: Call = faces(model, None, NONE)["racer.generate"]
    return call(way, how, args)


def over_models(cases: Iterable[Case]) -> pytest.MarkDecorator:
    """Parametrizes a test by ``case, name, ways``, where a way is a face and a number of rows.

    Every other case runs in one way, another face, model and number of rows in turn; all ways of all are a soak test.
    """
    chosen = []
    for place, case in enumerate(cases):
        turn = place // 2
        name, face = case.models[turn % len(case.models)], case.faces[turn % len(case.faces)]
        rows = case.rows[-1 - turn % len(case.rows)]
        if place % 2 == 0:
            chosen.append(pytest.param(case, name, ((face, rows),), id=f"{case.name}-{name}-{face}-{rows}"))
        ways = tuple(itertools.product(case.faces, case.rows))
        long = pytest.mark.soak
        chosen += [pytest.param(case, name, ways, id=f"{case.name}-{name}", marks=long) for name in case.models]
    return pytest.mark.parametrize(("case", "name", "ways"), chosen)
