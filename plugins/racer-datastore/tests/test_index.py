"""Sorting and searching against naive scans."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from racer_datastore import DatastoreError, Index, write_index
from racer_datastore.sorting import sort_suffixes

SMALL, WIDE = st.integers(0, 2), st.sampled_from([0, 1, 255, 256, 65534, 65535, 65536, 2**32 - 2])
corpora = st.one_of(st.lists(st.lists(ids, min_size=1, max_size=25), min_size=1, max_size=5) for ids in (SMALL, WIDE))


def indexed(texts: list[list[int]], use: Callable[[Index], None], depth: int = 16) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.idx"
        write_index(path, texts, bytes(32), depth)
        use(Index(path))


def scan(texts: list[list[int]], pattern: list[int]) -> list[list[int]]:
    """What follows ``pattern`` in each place, to the end of the text."""
    size = len(pattern)
    return [
        text[start + size :]
        for text in texts
        for start in range(len(text) - size + 1)
        if text[start : start + size] == pattern
    ]


@given(st.lists(st.integers(0, 3) | st.just(2**32 - 1), max_size=80), st.integers(2, 20))
def test_suffixes_are_sorted_to_the_depth(tokens: list[int], depth: int) -> None:
    order = sort_suffixes(np.array(tokens, dtype=np.uint32), depth)
    assert order.tolist() == sorted(range(len(tokens)), key=lambda start: (tokens[start : start + depth], start))


@given(corpora, st.data())
def test_find_gives_every_place(texts: list[list[int]], data: st.DataObject) -> None:
    source = data.draw(st.sampled_from(texts))
    start = data.draw(st.integers(0, len(source) - 1))
    inside = source[start : start + data.draw(st.integers(1, 16))]
    pattern = data.draw(st.just(inside) | st.lists(SMALL | WIDE, min_size=1, max_size=5))

    def check(index: Index) -> None:
        found = index.find(pattern)
        follow = index.continuations(found, len(pattern), samples=1000, size=30)
        cut = [row[: row.index(index.header.separator)] for row in follow]
        assert sorted(cut) == sorted(scan(texts, pattern))

    indexed(texts, check)


@given(corpora, st.lists(SMALL, max_size=20), st.integers(1, 4), st.integers(2, 16))
def test_longest_is_that_of_a_naive_search(texts: list[list[int]], context: list[int], least: int, depth: int) -> None:
    sizes = range(min(len(context), depth), least - 1, -1)
    want = next((size for size in sizes if scan(texts, context[-size:])), 0)

    def check(index: Index) -> None:
        matched, found = index.longest(context, least, longest=16)
        assert matched == want
        assert len(found) == (len(scan(texts, context[-want:])) if want else 0)

    indexed(texts, check, depth)


def test_samples_are_spread_over_all_matches(tmp_path: Path) -> None:
    texts = [[1, 2, follow] for follow in range(10, 20)]
    write_index(tmp_path / "x.idx", texts, bytes(32))
    index = Index(tmp_path / "x.idx")
    found = index.find([1, 2])
    assert [row[0] for row in index.continuations(found, 2, samples=5, size=1)] == [10, 12, 14, 16, 18]
    assert index.continuations(range(0), 2, samples=5, size=3) == []


def test_ids_that_no_text_can_hold_are_not_found(tmp_path: Path) -> None:
    write_index(tmp_path / "x.idx", [[1, 2]], bytes(32))
    index = Index(tmp_path / "x.idx")
    assert not index.find([-1])
    assert not index.find([2, index.header.separator])
    assert not index.find([2**40])
    with pytest.raises(ValueError, match="at most 16"):
        index.find([1] * 17)


@pytest.mark.parametrize(("largest", "width"), [(65534, 2), (65535, 4)])
def test_tokens_take_two_bytes_where_they_fit(tmp_path: Path, largest: int, width: int) -> None:
    header = write_index(tmp_path / "x.idx", [[0, largest]], bytes(32))
    assert (header.token_bytes, header.max_id, header.tokens) == (width, largest, 3)
    assert Index(tmp_path / "x.idx").tokens.tolist() == [0, largest, header.separator]


CUT_OFF = """
import sys
from racer_datastore import DatastoreError, Index
path = sys.argv[1]
small, mapped = Index(path), Index(path, in_memory=0)
found, pattern = mapped.find([7, 8]), [7, 8]
assert len(found) == 1
with open(path, "r+b") as file:
    file.truncate(40)
assert small.find(pattern) == found
assert small.continuations(found, 2, 1, 1) == [[9]]
for use in (lambda: mapped.find(pattern), lambda: mapped.longest(pattern, 1, 2),
            lambda: mapped.continuations(found, 2, 1, 1)):
    try:
        use()
    except DatastoreError as error:
        assert "cut off while it was in use" in str(error), error
    else:
        raise AssertionError("it went on reading")
"""


def test_a_file_that_is_cut_off_while_in_use_does_not_end_the_process(tmp_path: Path) -> None:
    texts = [[7, 8, 9], *([n, n + 1] for n in range(100, 30_000))]  # many pages
    write_index(tmp_path / "x.idx", texts, bytes(32))
    command = [sys.executable, "-c", CUT_OFF, str(tmp_path / "x.idx")]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_a_new_file_in_its_place_leaves_the_old_one_in_use(tmp_path: Path) -> None:
    path = tmp_path / "x.idx"
    write_index(path, [[1, 2, 3]], bytes(32))
    indices = Index(path), Index(path, in_memory=0)
    write_index(path, [[4]], bytes(32))
    for index in indices:
        assert index.continuations(index.find([1, 2]), 2, 1, 1) == [[3]]
    assert len(Index(path, in_memory=0)) == 2


@pytest.mark.parametrize("name", ["a\0b", "/dev/full", "/dev/zero", "/", "x" * 5000])
def test_what_is_no_file_is_refused(name: str) -> None:
    with pytest.raises(DatastoreError):
        Index(name)
