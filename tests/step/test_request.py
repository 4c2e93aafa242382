"""Seeds of rows."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from racer.step.request import Request, add_step, add_token, add_tokens, cut, row_seed

SEEDS = st.integers(0, 2**40 - 1)
ROWS = st.integers(0, 2**20 - 1)


@given(SEEDS, ROWS, SEEDS, ROWS)
@example(0, 1, 1, 0)
@example(2**40 - 1, 2**20 - 1, 0, 0)
def test_rows_of_near_seeds_share_none(seed: int, row: int, other: int, its: int) -> None:
    assert (row_seed(seed, row) == row_seed(other, its)) == ((seed, row) == (other, its))


def test_the_nearest_multiples_are_far_enough_apart() -> None:
    """By the best approximations of the golden ratio, the Fibonacci numbers."""
    small, large = 1, 2
    while small < 2**40:
        apart = (row_seed(small, 0) - row_seed(0, 0)) % 2**64
        assert min(apart, 2**64 - apart) > 2**20
        small, large = large, small + large
    assert row_seed(large, 0) != row_seed(0, 0)


def test_steps_are_noted_with_what_is_left_of_them() -> None:
    for kept, expected in ((9, [3, 1, 4]), (8, [3, 1, 3]), (5, [3, 1]), (4, [3]), (2, [1]), (1, [])):
        request = Request(prompt=(1, 2))
        add_token(request, 3)  # of the prompt
        for count in (3, 1, 4):
            add_tokens(request, range(count))
            add_step(request, count)
        cut(request, 2 + kept)
        assert request.accept_lengths == expected
        assert 1 + sum(request.accept_lengths) == len(request.emitted) == kept
