"""The automaton against naive search."""

from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st
from naive_search import longest_suffix, occurrences

from racer_suffix import SuffixAutomaton
from racer_suffix.automaton import REFRESHED

texts = st.lists(st.integers(0, 2), max_size=60) | st.lists(st.integers(0, 9), max_size=60)


@given(texts)
def test_the_match_with_itself_is_the_longest_that_ends_earlier(text: list[int]) -> None:
    automaton = SuffixAutomaton()
    for end, token in enumerate(text):
        automaton.append(token)
        read = text[: end + 1]
        want = next((size for size in range(end, 0, -1) if occurrences(read[:-1], read[-size:])), 0)
        found = automaton.repeats(shortest=1, limit=1)
        assert (found[0][0] if found else 0) == want
        for length, place in found:
            assert place < end
            assert read[place - length + 1 : place + 1] == read[-length:]


@given(st.lists(st.integers(0, 2), max_size=REFRESHED))
def test_the_longest_match_is_taken_where_it_was_last_seen(text: list[int]) -> None:
    automaton = SuffixAutomaton(text)
    for length, place in automaton.repeats(shortest=1, limit=1):
        assert place == occurrences(text[:-1], text[-length:])[-1]


@given(texts, st.integers(1, 4), st.integers(1, 5))
def test_shorter_matches_are_suffixes_seen_elsewhere(text: list[int], shortest: int, limit: int) -> None:
    found = SuffixAutomaton(text).repeats(shortest, limit)
    assert len(found) <= limit
    lengths, places = [length for length, _ in found], [place for _, place in found]
    assert lengths == sorted(set(lengths), reverse=True)
    assert len(set(places)) == len(places)
    for length, place in found:
        assert length >= shortest
        assert place in occurrences(text[:-1], text[-length:])


@given(texts, texts)
def test_reading_another_text_gives_its_longest_known_suffix(text: list[int], other: list[int]) -> None:
    automaton = SuffixAutomaton(text)
    state, length = 0, 0
    for end, token in enumerate(other):
        state, length = automaton.read(state, length, token)
        assert length == longest_suffix(text, other[: end + 1])
        for matched, place in automaton.places(state, length, shortest=1, limit=9):
            assert place in occurrences(text, other[end + 1 - matched : end + 1])


@given(texts, texts)
def test_it_knows_exactly_the_substrings(text: list[int], pattern: list[int]) -> None:
    automaton = SuffixAutomaton(text)
    state = 0
    for token in pattern[:5]:
        state = automaton.step(state, token)
        if state < 0:
            break
    assert (state >= 0) == (not pattern or bool(occurrences(text, pattern[:5])))


@given(st.lists(st.integers(0, 3), min_size=2, max_size=200))
def test_it_has_at_most_two_states_a_token(text: list[int]) -> None:
    assert SuffixAutomaton(text).states <= 2 * len(text)


def test_a_text_of_one_token_costs_linear_time() -> None:
    started = time.perf_counter()
    automaton = SuffixAutomaton([7] * 20_000)
    assert automaton.repeats(2, 1) == [(19_999, 19_998)]
    assert time.perf_counter() - started < 5
