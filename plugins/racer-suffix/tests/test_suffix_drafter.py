"""The drafter by itself: what it drafts, how much it keeps, how long it takes."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from racer.errors import ConfigError
from racer.step.request import Request, add_tokens
from racer.step.tree_builder import TreeBuilder
from racer_suffix import Suffix


def draft(drafter: Suffix, request: Request, budget: int = 64) -> TreeBuilder:
    tree = TreeBuilder(request.tokens[-1], budget)
    drafter.grow(request, tree)
    return tree


def opened(drafter: Suffix, tokens: list[int]) -> Request:
    request = Request(prompt=tuple(tokens))
    drafter.opened(request)
    return request


def test_it_copies_what_followed_the_longest_match() -> None:
    drafter = Suffix(chains=1, reach=2)
    tree = draft(drafter, opened(drafter, [1, 2, 3, 4, 5, 6, 7, 9, 1, 2]))
    assert tree.tokens == [2, 3, 4, 5, 6]  # twice the two tokens that match
    assert tree.parents == [-1, 0, 1, 2, 3]


def test_a_repeating_text_is_guessed_to_keep_repeating() -> None:
    drafter = Suffix(reach=2)
    assert draft(drafter, opened(drafter, [5, 6, 5, 6, 5, 6])).tokens == [6, *[5, 6] * 4]


def test_a_short_match_is_not_drafted_from() -> None:
    drafter = Suffix(min_match=3)
    assert draft(drafter, opened(drafter, [1, 2, 3, 9, 1, 2])).tokens == [2]


def test_several_places_share_one_tree() -> None:
    text = [9, 1, 2, 3, 8, 1, 2, 4, 7, 9, 1, 2]  # "9 1 2" was followed by 3, and later "1 2" by 4
    one, two = Suffix(chains=1), Suffix(chains=2)
    assert 4 not in draft(one, opened(one, text), budget=4).tokens
    tree = draft(two, opened(two, text))
    assert [tree.tokens[node] for node, parent in enumerate(tree.parents) if parent == 0] == [3, 4]


def test_it_learns_from_finished_requests() -> None:
    drafter = Suffix()
    first = opened(drafter, [1, 2, 3, 4, 5, 6])
    drafter.closed(first)
    assert draft(drafter, opened(drafter, [7, 2, 3])).tokens == [3, 4, 5, 6]
    assert not Suffix(max_history=0).history.half


def test_it_reads_what_was_emitted_without_being_told() -> None:
    drafter = Suffix()
    request = opened(drafter, [1, 2, 3, 4])
    add_tokens(request, [1, 2])
    assert draft(drafter, request).tokens[:3] == [2, 3, 4]


@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=40), min_size=1, max_size=4), st.integers(1, 20))
def test_any_tree_is_well_formed(prompts: list[list[int]], budget: int) -> None:
    drafter = Suffix(min_match=1, chains=3)
    for prompt in prompts:
        request = opened(drafter, prompt)
        tree = draft(drafter, request, budget)
        assert 1 <= len(tree) <= budget
        assert tree.tokens[0] == prompt[-1]
        assert all(0 <= token <= 3 for token in tree.tokens)
        assert all(parent < node for node, parent in enumerate(tree.parents))
        assert tree.scores == sorted(tree.scores, reverse=True)  # the best node first: any head is the best tree
        drafter.closed(request)


def test_memory_stays_constant() -> None:
    drafter, draw = Suffix(max_history=1000), random.Random(0)
    for _ in range(200):
        request = opened(drafter, [draw.randrange(30) for _ in range(draw.randrange(1, 300))])
        draft(drafter, request)
        drafter.closed(request)
        assert len(drafter.history) <= 1000
        assert drafter.history.young.states + drafter.history.old.states <= 2002
    assert not drafter._readers


def test_a_step_takes_well_under_a_millisecond() -> None:
    drafter, draw = Suffix(), random.Random(0)
    request = opened(drafter, [draw.randrange(50) for _ in range(2000)])
    times = []
    for _ in range(200):
        add_tokens(request, [draw.randrange(50) for _ in range(3)])
        started = time.perf_counter()
        draft(drafter, request)
        times.append(time.perf_counter() - started)
    assert sorted(times)[100] < 1e-3


@pytest.mark.parametrize(
    ("setting", "value"), [("min_match", 0), ("max_draft", 0), ("chains", 0), ("reach", 0.0), ("max_history", -1)]
)
def test_settings_out_of_range_are_refused(setting: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=setting):
        Suffix(**{setting: value})
