"""How long drafts pay: told by what steps take, and by what they give."""

from __future__ import annotations

import random

import pytest

from racer.drafting import Session, Told
from racer.drafting.pace import LEAST, LENIENCE, MOST, UNKNOWN, Pace

VOCAB = 500


def told(one_more: float, emitted: int = 2, steps: int = 60) -> Pace:
    """After steps of 4 to 20 tokens over four texts, of 100 ms and ``one_more`` for each token."""
    pace, rng = Pace(), random.Random(0)
    for _ in range(steps):
        scored = rng.randrange(4, 21)
        pace.heard(scored, 4 * emitted, 100 + one_more * scored)
    return pace


def test_before_costs_are_known_a_bound_is_given() -> None:
    assert Pace().least_score(4) == UNKNOWN


@pytest.mark.parametrize("one_more", [2.0, 5.0, 20.0])
def test_a_guess_must_save_a_part_of_what_it_costs(one_more: float) -> None:
    step = 100 + one_more * 12  # of twelve tokens in the mean
    assert told(one_more).least_score(4) == pytest.approx(one_more * 8 / step / LENIENCE, rel=0.25)


def test_bounds() -> None:
    assert told(0.0).least_score(4) == LEAST
    assert told(1000.0, emitted=40).least_score(4) == MOST


def test_a_pause_is_no_slow_step() -> None:
    pace = told(5.0)
    before = pace.least_score(4)
    pace.heard(12, 8, 600_000.0)
    assert pace.least_score(4) == pytest.approx(before, rel=0.3)


def drafted(least_score: float | None) -> int:
    """Tokens drafted late in a text that never repeats itself, where a further token costs as much as a step."""
    session, rng = Session("racer", vocab_size=VOCAB, most=8, least_score=least_score), random.Random(1)
    session.open(0, [1])
    lengths = [0]
    for _ in range(150):
        (draft,) = session.step([Told(0, [rng.randrange(VOCAB)])], milliseconds=100 + 100 * lengths[-1])
        lengths.append(len(draft))
    return sum(lengths[-50:])


def test_nothing_is_drafted_where_it_fails_and_costs() -> None:
    assert drafted(least_score=LEAST) > 10
    assert drafted(least_score=None) <= 2


@pytest.mark.parametrize("milliseconds", [0.0, -1.0, float("inf"), float("nan")])
def test_a_clock_that_is_too_coarse_says_nothing(milliseconds: float) -> None:
    session, pace = Session(vocab_size=VOCAB), told(5.0)
    before = pace.least_score(4)
    pace.heard(4, 4, milliseconds)
    assert pace.least_score(4) == before
    session.open("a", [1, 2, 3])
    for token in range(9):
        session.step([Told("a", [token])], milliseconds=milliseconds)
    assert session.figures.emitted == 9
