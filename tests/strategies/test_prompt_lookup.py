"""The drafter ``prompt-lookup`` against brute force."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from racer import PromptLookup
from racer.errors import ConfigError
from racer.step.request import Request
from racer.step.tree_builder import TreeBuilder


def drafted(text: list[int], budget: int = 64, **sizes: int) -> list[int]:
    tree = TreeBuilder(text[-1], budget)
    PromptLookup(**sizes).grow(Request(prompt=tuple(text)), tree)
    assert tree.parents[1:] == list(range(len(tree.tokens) - 1)), "one chain"
    return tree.tokens[1:]


def expected(text: list[int], ngram: int, most: int) -> list[int]:
    for size in range(min(ngram, len(text) - 1), 0, -1):
        for start in range(len(text) - size - 1, -1, -1):
            if text[start : start + size] == text[-size:]:
                guess: list[int] = []
                for _ in range(most):  # as if the text had gone on like that already
                    guess.append((text + guess)[start + size + len(guess)])
                return guess
    return []


@given(
    text=st.lists(st.integers(0, 3), min_size=1, max_size=30),
    ngram=st.integers(1, 4),
    most=st.integers(1, 12),
    budget=st.integers(1, 16),
)
def test_the_latest_longest_match_goes_on(text: list[int], ngram: int, most: int, budget: int) -> None:
    chain = drafted(text, budget, max_ngram=ngram, max_tokens=most)
    assert chain == expected(text, ngram, most)[: budget - 1]


def test_a_text_that_repeats_itself_is_followed_round_and_round() -> None:
    assert drafted([9, 1, 2, 3, 1, 2, 3], max_tokens=8) == [1, 2, 3, 1, 2, 3, 1, 2]


@pytest.mark.parametrize("wrong", [{"max_ngram": 0}, {"max_tokens": 0}])
def test_sizes_below_one_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="max_ngram and max_tokens"):
        PromptLookup(**wrong)
