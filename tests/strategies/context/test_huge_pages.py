"""Large tables lie in whole huge pages; where there are none, in what the system gives."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from racer.strategies.context import huge_pages
from racer.strategies.context.huge_pages import HUGE, zeros
from racer.strategies.context.top_k_table import TopKTable


@pytest.mark.parametrize("size", [0, 1, HUGE // 8 - 1, HUGE // 8, HUGE // 8 + 1, 3 * HUGE])
def test_zeros_that_can_be_written(size: int) -> None:
    table = zeros(size, np.int64)
    assert (table.shape, table.dtype) == ((size,), np.int64)
    assert not table.any()
    table[:] = np.arange(size)
    assert np.array_equal(table, np.arange(size))
    assert not zeros(size, np.int64).any(), "nobody else's memory"


@pytest.mark.skipif(not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="this system has no huge pages")
def test_a_large_table_begins_with_a_huge_page() -> None:
    assert zeros(HUGE, np.int8).ctypes.data % HUGE == 0
    assert TopKTable.of(2**12, 15).words.ctypes.data % HUGE == 0


@pytest.mark.skipif(
    not (Path("/proc/self/statm").exists() and Path("/sys/kernel/mm/transparent_hugepage").exists()),
    reason="this system has no huge pages, or does not tell what memory is in use",
)
def test_the_pages_of_a_large_table_are_there_before_they_are_needed() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE

    before, table = resident(), zeros(32 * HUGE, np.int8)
    assert resident() - before >= 0.9 * len(table)


@pytest.mark.parametrize("lacking", ["the call", "the mapping", "the advice"])
def test_without_huge_pages_there_is_memory_all_the_same(monkeypatch: pytest.MonkeyPatch, lacking: str) -> None:
    class Refusing(mmap.mmap):
        def __new__(cls, *args: Any, **options: Any) -> Refusing:
            if lacking == "the mapping":
                raise OSError("cannot allocate memory")
            return super().__new__(cls, *args, **options)

        def madvise(self, *_: int) -> None:
            raise OSError("invalid argument")

    if lacking == "the call":
        monkeypatch.delattr(mmap, "MADV_HUGEPAGE", raising=False)
    else:
        monkeypatch.setattr(huge_pages.mmap, "mmap", Refusing)
    table = zeros(HUGE, np.float32)
    table[-1] = 1
    assert table.sum() == 1
