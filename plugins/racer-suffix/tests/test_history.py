"""The history of finished requests: bounded, and never stale."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from naive_search import longest_suffix, occurrences

from racer.errors import ConfigError
from racer_suffix import Cursor, History
from racer_suffix.history import RECALL

CAP = 40
documents = st.lists(st.integers(0, 2), min_size=1, max_size=30)


class Serving(RuleBasedStateMachine):
    """One request reads on while others finish."""

    def __init__(self) -> None:
        super().__init__()
        self.history = History(CAP)
        self.cursor = Cursor(self.history)
        self.text: list[int] = []
        self.read = 0

    @rule(document=documents)
    def finish_another(self, document: list[int]) -> None:
        self.history.add(document)

    @rule(tokens=st.lists(st.integers(0, 2), max_size=8))
    def read_on(self, tokens: list[int]) -> None:
        self.text += tokens
        self.cursor.read(self.text, self.read)
        self.read = len(self.text)
        longest = 0
        for automaton, matched, end in self.cursor.places(shortest=1, limit=3):
            assert end in occurrences(list(automaton.text), self.text[-matched:])
            longest = max(longest, matched)
        known = [list(self.history.young.text), list(self.history.old.text)]
        want = max(longest_suffix(text, self.text) for text in known)
        assert longest == want or longest >= RECALL

    @invariant()
    def stays_small(self) -> None:
        assert len(self.history) <= CAP
        assert self.history.young.states + self.history.old.states <= 2 * CAP + 2


Serving.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestServing = Serving.TestCase


def test_the_latest_half_is_always_remembered() -> None:
    history = History(100)
    for document in range(50):
        history.add([document] * 9)
        kept = set(history.young.text) | set(history.old.text)
        assert set(range(max(0, document - 4), document + 1)) <= kept


def test_of_a_long_text_the_end_is_kept() -> None:
    history = History(20)
    history.add(range(100))  # type: ignore[arg-type]
    assert list(history.young.text) == [*range(91, 100), -1]


def test_nothing_matches_across_two_texts() -> None:
    history = History(100)
    history.add([1, 2])
    history.add([3, 4])
    cursor = Cursor(history)
    cursor.read([1, 2, 3], 0)
    assert [matched for _, matched, _ in cursor.places(1, 9)] == [1]


def test_a_history_of_nothing() -> None:
    history = History(0)
    history.add([1, 2, 3])
    assert len(history) == 0


@pytest.mark.parametrize("size", [-1, 1, 3])
def test_sizes_that_make_no_sense_are_refused(size: int) -> None:
    with pytest.raises(ConfigError, match="max_history"):
        History(size)
