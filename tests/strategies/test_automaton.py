"""The automaton against a brute-force model of the same text, evictions included."""

from __future__ import annotations

from collections import Counter, OrderedDict

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from racer.errors import ConfigError
from racer.strategies.automaton import Automaton, Node

NGRAM, MAX_NODES, ROWS = 3, 14, 2


def spell(node: Node) -> tuple[int, ...]:
    tokens: list[int] = []
    while node.parent is not None:
        tokens.insert(0, node.token)
        node = node.parent
    return tuple(tokens)


class BruteForce:
    """Stored strings with counts in a plain ordered dict; LRU of leaves by looking at all of them."""

    def __init__(self) -> None:
        self.count: OrderedDict[tuple[int, ...], int] = OrderedDict()

    def insert(self, recent: list[int]) -> None:
        windows = [tuple(recent[start:]) for start in range(len(recent) - 1, max(len(recent) - 1 - NGRAM, -1), -1)]
        for window in windows:
            fresh = window not in self.count
            for end in range(1, len(window) + 1):
                self._touch(window[:end])
            self.count[window] += not fresh
            for end in range(1, len(window)):
                self.count[window[:end]] = max(self.count[window[:end]], self.count[window])
        for window in reversed(windows):
            for end in range(len(window), 0, -1):
                self.count.move_to_end(window[:end])

    def _touch(self, string: tuple[int, ...]) -> None:
        if string not in self.count:
            if len(self.count) >= MAX_NODES:
                leaves = [s for s in self.count if not any(len(t) == len(s) + 1 and t[:-1] == s for t in self.count)]
                del self.count[leaves[0]]
            self.count[string] = 1
        self.count.move_to_end(string)


class AutomatonMachine(RuleBasedStateMachine):
    """Texts of several rows are read in turn, so that one row's windows are evicted while another is read."""

    def __init__(self) -> None:
        super().__init__()
        self.automaton = Automaton(NGRAM, MAX_NODES)
        self.model = BruteForce()
        self.texts: list[list[int]] = [[] for _ in range(ROWS)]

    @rule(row=st.integers(0, ROWS - 1), tokens=st.lists(st.integers(0, 3), min_size=1, max_size=6))
    def read(self, row: int, tokens: list[int]) -> None:
        for token in tokens:
            self.texts[row].append(token)
            self.automaton.insert(self.texts[row][-NGRAM:])
            self.model.insert(self.texts[row][-NGRAM:])

    @rule(row=st.integers(0, ROWS - 1))
    def start_a_new_text(self, row: int) -> None:
        self.texts[row] = []

    @invariant()
    def same_strings_counts_and_recency(self) -> None:
        assert {spell(node): node.count for node in self.automaton} == dict(self.model.count)
        assert [spell(node) for node in self.automaton] == list(self.model.count)
        assert len(self.automaton) <= MAX_NODES

    @invariant()
    def failure_links_lead_to_the_longest_stored_suffix(self) -> None:
        stored = {spell(node): node for node in self.automaton}
        for string, node in stored.items():
            suffixes = [string[start:] for start in range(1, len(string) + 1)]
            longest = next(suffix for suffix in suffixes if suffix in stored or not suffix)
            assert node.fail is (stored[longest] if longest else self.automaton.root)
            assert longest == string[1:], "the set of stored strings is closed under suffixes"

    @invariant()
    def a_child_never_counts_more_than_its_parent(self) -> None:
        for node in self.automaton:
            assert all(child.count <= node.count for child in node.children.values())

    @rule(context=st.lists(st.integers(0, 3), max_size=6))
    def match_is_the_longest_stored_suffix(self, context: list[int]) -> None:
        suffixes = [tuple(context[start:]) for start in range(max(0, len(context) - NGRAM), len(context) + 1)]
        assert spell(self.automaton.match(context)) == next(s for s in suffixes if s in self.model.count or not s)

    @rule(context=st.lists(st.integers(0, 3), max_size=6))
    def continuations_are_those_of_all_borders_by_frequency(self, context: list[int]) -> None:
        borders = [tuple(context[s:]) for s in range(len(context) - 1) if tuple(context[s:]) in self.model.count]
        frequency: Counter[tuple[int, ...]] = Counter()
        for border in borders:
            for string, count in self.model.count.items():
                if len(string) > len(border) and string[: len(border)] == border:
                    frequency[string[len(border) :]] += count
        paths: list[tuple[int, ...]] = [()]
        for parent, token in self.automaton.continuations(context):
            paths.append((*paths[parent], token))
        assert sorted(paths[1:]) == sorted(frequency)
        counts = [frequency[path] for path in paths[1:]]
        assert counts == sorted(counts, reverse=True)


TestAutomaton = AutomatonMachine.TestCase
TestAutomaton.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


def test_a_long_text_stays_within_its_nodes() -> None:
    automaton = Automaton(4, 100)
    text = [(i * i) % 97 for i in range(3000)]
    for end in range(1, len(text) + 1):
        automaton.insert(text[max(0, end - 4) : end])
    assert len(automaton) == 100


@pytest.mark.parametrize(("ngram", "nodes"), [(1, 100), (0, 100), (10, 109), (2, 0)])
def test_sizes_that_cannot_work_are_refused(ngram: int, nodes: int) -> None:
    with pytest.raises(ConfigError, match="must be at least"):
        Automaton(ngram, nodes)
