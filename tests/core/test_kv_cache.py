"""TreeCache against plain lists of tokens: what a row holds is what was committed, in order."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from racer.core.cache_layout import Block, CacheLayout
from racer.core.kv_cache import GROWTH, TreeCache

CPU = torch.device("cpu")
THIN, WIDE = Block(1, 2, torch.float64, CPU), Block(2, 3, torch.float32, CPU)
LAYOUT = CacheLayout(keys=(THIN, WIDE, THIN), values=(THIN, WIDE, WIDE))  # unlike shapes share nothing


class CacheMachine(RuleBasedStateMachine):
    """Every written token is a number of its own, so a wrong or overwritten slot shows."""

    @initialize(padding=st.lists(st.integers(0, 3), min_size=1, max_size=3))
    def open(self, padding: list[int]) -> None:
        self.cache = TreeCache(LAYOUT, padding, capacity=10)
        self.rows: list[list[int]] = [[] for _ in padding]
        self.next = 1

    def write(self, width: int) -> list[list[int]]:
        """A forward pass over ``width`` tokens of each row; the numbers that it wrote."""
        self.cache.reserve(width)
        numbers = [[self.next + row * width + i for i in range(width)] for row in range(len(self.rows))]
        self.next += width * len(self.rows)
        for layer in range(3):
            keys = self.states(numbers, LAYOUT.keys[layer], 0)
            values = self.states(numbers, LAYOUT.values[layer], 0.5)
            seen_keys, seen_values = self.cache.update(keys, values, layer)
            assert seen_keys.shape[2] == seen_values.shape[2] == self.cache.end + width
            assert torch.equal(seen_keys[:, :, -width:], keys)
        return numbers

    @staticmethod
    def states(numbers: list[list[int]], block: Block, shift: float) -> torch.Tensor:
        base = torch.tensor(numbers, dtype=block.dtype)[:, None, :, None] + shift
        return base.expand(-1, block.heads, -1, block.head_dim)

    @rule(width=st.integers(1, 9))
    def append_a_piece_of_prompt(self, width: int) -> None:
        if len({len(row) for row in self.rows}) > 1:
            return  # prompts come before trees
        for row, new in zip(self.rows, self.write(width), strict=True):
            row.extend(new)
        self.cache.append(width)

    @rule(width=st.integers(1, 40), data=st.data())
    def score_a_tree_and_keep_a_path(self, width: int, data: st.DataObject) -> None:
        numbers = self.write(width)
        drawn = [data.draw(st.none() | st.sets(st.integers(0, width - 1), max_size=4)) for _ in self.rows]
        paths = [[] if columns is None else sorted({0} | columns) for columns in drawn]  # None: a finished row
        path = torch.zeros(len(self.rows), width, dtype=torch.long)
        for row, columns in enumerate(paths):
            path[row, : len(columns)] = torch.tensor(columns, dtype=torch.long)
            self.rows[row].extend(numbers[row][column] for column in columns)
        self.cache.commit(path, [len(columns) for columns in paths])

    @rule(width=st.integers(1, 5))
    def reject_everything(self, width: int) -> None:
        self.write(width)

    @rule(data=st.data())
    def let_rows_go(self, data: st.DataObject) -> None:
        kept = sorted(data.draw(st.sets(st.integers(0, len(self.rows) - 1), min_size=1)))
        padding = [self.cache.padding[row] for row in kept]
        self.cache.keep(kept)
        self.rows = [self.rows[row] for row in kept]
        assert self.cache.padding == padding

    @invariant()
    def rows_hold_what_was_committed(self) -> None:
        if not hasattr(self, "cache"):
            return
        assert self.cache.lengths == [len(row) for row in self.rows]
        assert self.cache.get_seq_length() == self.cache.end
        for layer in range(3):
            keys, values = self.cache.layer(layer)
            for number, row in enumerate(self.rows):
                expected = torch.tensor(row, dtype=torch.float64)
                assert torch.equal(keys[number, 0, : len(row), -1].double(), expected)
                assert torch.equal(values[number, -1, : len(row), 0].double(), expected + 0.5)

    @invariant()
    def no_rubbish_is_not_a_number(self) -> None:
        if hasattr(self, "cache"):
            assert all(part.isfinite().all() for layer in range(3) for part in self.cache.layer(layer))


TestCache = CacheMachine.TestCase
TestCache.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)


def test_storage_grows_in_buckets_and_not_with_every_step() -> None:
    cache = TreeCache(LAYOUT, [0], capacity=GROWTH)
    where = set()
    for _ in range(4 * GROWTH):
        cache.reserve(8)
        where.add(cache.layer(0)[0].data_ptr())
        cache.update(torch.ones(1, 1, 1, 2, dtype=torch.float64), torch.ones(1, 1, 1, 2, dtype=torch.float64), 0)
        cache.append(1)
    assert len(where) <= 5
    assert cache.capacity % GROWTH == 0


@pytest.mark.parametrize("full", [GROWTH - 1, GROWTH, 2 * GROWTH])
def test_a_full_cache_keeps_its_last_slot_when_it_grows(full: int) -> None:
    """Storage that is used up to its end is moved up to its end."""
    cache = TreeCache(LAYOUT, [0, 0], capacity=full)
    numbers = torch.arange(1, full + 1).expand(2, -1)[:, None, :, None]
    for index, (keys, values) in enumerate(zip(LAYOUT.keys, LAYOUT.values, strict=True)):
        states = [numbers.expand(-1, block.heads, -1, block.head_dim).to(block.dtype) for block in (keys, values)]
        cache.update(*states, index)
    cache.append(full)
    assert cache.has_room(1) == (full % GROWTH != 0)
    cache.reserve(2)
    assert cache.moves == 1
    for index in range(len(LAYOUT.keys)):
        for part in cache.layer(index):
            assert torch.equal(part[1, -1, :full, 0].long(), torch.arange(1, full + 1))
            assert not part[:, :, full:].any()


@pytest.mark.parametrize("path", [[0, 2, 1], [0, 400, 401], [-1, 0, 1], [1, 1, 2]])
def test_what_is_no_path_moves_nothing(path: list[int]) -> None:
    """Machine code would read and write wherever it points."""
    cache = TreeCache(LAYOUT, [0, 0], capacity=10)
    before = [store.clone() for store in cache.stores]
    with pytest.raises(IndexError, match="not paths of a tree"):
        cache.commit(torch.tensor([[0, 1, 2], path]), [1, 3])
    for few, counts in ([[0, 1, 2], [0, 1, 2]], [1, 4]), ([[0, 1, 2]], [2, 2]):
        with pytest.raises(IndexError, match="not paths of a tree"):
            cache.commit(torch.tensor(few), counts)
    assert all(torch.equal(store, was) for store, was in zip(cache.stores, before, strict=True))
    assert cache.lengths == [0, 0]


def test_storage_goes_with_its_last_reference_not_with_the_next_garbage_collection() -> None:
    gc.collect()
    gc.disable()
    try:
        cache = TreeCache(LAYOUT, [0], capacity=10)
        alive = weakref.ref(cache)
        del cache
        assert alive() is None
    finally:
        gc.enable()
