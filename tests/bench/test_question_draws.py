"""Draws that repeat, and digests that tell questions apart."""

from __future__ import annotations

import random
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from racer.bench.questions import Question, digest, draw
from racer.errors import ConfigError
from support.question_rows import groups

drawable = st.lists(st.sampled_from("abcd"), max_size=40).map(
    lambda names: [Question(number, name, name, ("x",)) for number, name in enumerate(names)]
)
limits = st.none() | st.integers(1, 12)
seeds = st.integers(0, 2**32)


def by_group(questions: list[Question]) -> dict[str, list[Question]]:
    found: dict[str, list[Question]] = {}
    for question in questions:
        found.setdefault(question.group, []).append(question)
    return found


@given(drawable, limits, seeds)
def test_a_draw_is_so_many_of_each_group(questions: list[Question], limit: int | None, seed: int) -> None:
    drawn = draw(questions, limit, seed)
    assert drawn == draw(questions, limit, seed)
    assert set(drawn) <= set(questions)
    assert len(set(drawn)) == len(drawn)
    assert [one.group for one in drawn] == sorted(one.group for one in drawn)
    wanted = {
        name: len(group) if limit is None else min(limit, len(group)) for name, group in by_group(questions).items()
    }
    assert groups(drawn) == wanted
    for name, group in by_group(drawn).items():
        if len(group) == len(by_group(questions)[name]):
            assert limit != len(group) or group == by_group(questions)[name]


@given(drawable, limits, seeds, st.randoms(use_true_random=False))
def test_how_groups_are_interleaved_does_not_matter(
    questions: list[Question], limit: int | None, seed: int, shuffled: random.Random
) -> None:
    left = by_group(questions)
    names = [one.group for one in questions]
    shuffled.shuffle(names)
    assert draw([left[name].pop(0) for name in names], limit, seed) == draw(questions, limit, seed)


@given(drawable.filter(bool), seeds)
def test_draws_are_those_of_the_published_figures(questions: list[Question], seed: int) -> None:
    own = by_group(questions)
    limit = min(map(len, own.values()))
    rng = random.Random(seed)
    expected = [
        one for name in sorted(own) for one in (own[name] if len(own[name]) == limit else rng.sample(own[name], limit))
    ]
    assert draw(questions, limit, seed) == expected


def test_small_groups_take_nothing_from_the_generator() -> None:
    small = [Question(number, "a", "a", ("x",)) for number in range(3)]
    large = [Question(number, "b", "b", ("x",)) for number in range(30)]
    assert draw([*small, *large], 3, 1) == [*small, *draw(large, 3, 1)]
    assert draw(large, 3, 1) == random.Random(1).sample(large, 3)
    assert draw(large, 3, 1) != draw(large, 3, 2)


@pytest.mark.parametrize("limit", [0, -1])
def test_limits_below_one(limit: int) -> None:
    with pytest.raises(ConfigError, match=f"at least 1 question a group, not {limit}"):
        draw([], limit, 0)


def test_a_digest_sees_every_field_and_the_order() -> None:
    one = Question(1, "c", "g", ("x", "y"), "r", "s")
    changes: list[dict[str, Any]] = [
        {"question_id": "1"},
        {"category": "d"},
        {"group": "h"},
        {"turns": ("xy",)},
        {"reference": None},
        {"source": "t"},
    ]
    assert {name for change in changes for name in change} == {field.name for field in attrs.fields(Question)}
    variants = [[one], [], [one, one], *([attrs.evolve(one, **change)] for change in changes)]
    assert len({digest(variant) for variant in variants}) == len(variants)
    other = attrs.evolve(one, question_id=2)
    assert digest([one, other]) != digest([other, one])


def test_a_digest_is_the_same_for_ever() -> None:
    expected = "e8a02ee46d6ea4379ecab2bb97861c1ceeb634a4979bb976271243136e0d6b4f"
    assert digest([Question(1, "qa", "set", ("Why é?", "\n"), None, "set.jsonl")]) == expected
