"""The drafter by itself: what it drafts, and how long it takes."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from racer.errors import ConfigError
from racer.step.request import Request
from racer.step.tree_builder import TreeBuilder
from racer_datastore import Datastore, write_index
from racer_datastore.drafter import fill

SEPARATOR = 65535


@pytest.fixture
def path(tmp_path: Path) -> Path:
    texts = [[1, 2, 3, 4, 5], [1, 2, 3, 6], [9, 2, 3, 7, 7], [8, 2, 3]]
    write_index(tmp_path / "x.idx", texts, bytes(32))
    return tmp_path / "x.idx"


def draft(drafter: Datastore, context: list[int], budget: int = 64) -> TreeBuilder:
    tree = TreeBuilder(context[-1], budget)
    drafter.grow(Request(prompt=tuple(context)), tree)
    return tree


def test_the_longest_context_decides(path: Path) -> None:
    assert draft(Datastore(path), [0, 9, 2, 3]).tokens == [3, 7, 7]
    assert draft(Datastore(path), [0, 1, 2, 3]).tokens == [3, 4, 6, 5]
    assert sorted(draft(Datastore(path), [0, 0, 2, 3]).tokens) == [3, 4, 5, 6, 7, 7]


def test_no_match_no_draft(path: Path) -> None:
    assert draft(Datastore(path), [0, 0, 3]).tokens == [3]
    assert draft(Datastore(path, min_match=1), [0, 0, 3]).tokens[1:]
    assert draft(Datastore(path), [3]).tokens == [3]
    assert draft(Datastore(path), [8, 2, 3]).tokens == [3]  # there the text ends


def test_frequent_continuations_come_first() -> None:
    rows = [[1, 5], [2, 6], [2, 7], [2, 7], [SEPARATOR, 1]]
    tree = TreeBuilder(0, 4)
    fill(tree, rows, matched=4, separator=SEPARATOR)
    assert tree.tokens == [0, 2, 7, 1]
    assert tree.scores == pytest.approx([1, 3 / 5 * 4 / 5, 2 / 5 * 4 / 6, 1 / 5 * 4 / 5])


@given(
    st.lists(st.lists(st.integers(0, 2) | st.just(SEPARATOR), min_size=4, max_size=4), min_size=1, max_size=20),
    st.integers(1, 30),
)
def test_the_tree_is_the_trie_of_the_rows(rows: list[list[int]], budget: int) -> None:
    tree = TreeBuilder(0, budget)
    fill(tree, rows, matched=3, separator=SEPARATOR)
    cut = [row[: row.index(SEPARATOR)] if SEPARATOR in row else row for row in rows]
    prefixes = {tuple(row[:size]) for row in cut for size in range(1, len(row) + 1)}
    paths: list[tuple[int, ...]] = [()]
    for parent, token in zip(tree.parents[1:], tree.tokens[1:], strict=True):
        paths.append((*paths[parent], token))
    assert len(set(paths)) == len(tree) == min(budget, len(prefixes) + 1)
    assert set(paths[1:]) <= prefixes
    assert tree.scores == sorted(tree.scores, reverse=True)
    for place, path in enumerate(paths[1:], start=1):
        share = sum(tuple(row[: len(path)]) == path for row in cut) / len(rows)
        assert tree.scores[place] == pytest.approx(share * 3 / (3 + len(path)))


def test_a_step_takes_well_under_a_millisecond(tmp_path: Path) -> None:
    draw = random.Random(0)
    write_index(tmp_path / "x.idx", [[draw.randrange(20) for _ in range(50_000)]], bytes(32))
    drafter, times = Datastore(tmp_path / "x.idx"), []
    for _ in range(100):
        context = [draw.randrange(20) for _ in range(2)]  # some 125 places match
        started = time.perf_counter()
        assert draft(drafter, context).full
        times.append(time.perf_counter() - started)
    assert sorted(times)[50] < 1e-3


@pytest.mark.parametrize(
    ("setting", "value"), [("min_match", 0), ("samples", 0), ("max_draft", 0), ("max_match", 1), ("max_match", 17)]
)
def test_settings_out_of_range_are_refused(path: Path, setting: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=setting):
        Datastore(path, **{setting: value})
