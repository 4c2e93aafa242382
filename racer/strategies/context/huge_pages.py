"""Memory for large tables, in pages as large as the system gives.

A table is looked at in random places. In pages of 4 KB each look may wait for the page's address, and each first write
for the system to make the page: learning from a tree took 0.5 ms instead of 0.13. Even large pages take their time
(60 ms for 32 MB that a virtual machine had not used before, 4 for what it had), so all are made at once, before anybody
decodes.
"""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

HUGE = 2 << 20
"""Bytes of a huge page of the usual processors."""


def zeros(size: int, dtype: DTypeLike) -> NDArray[Any]:
    """``[size]`` zeros; of large tables, all pages are made, where the system has large ones.

    numpy asks for huge pages too, but begins anywhere: what lies before the first whole page, or behind the last one,
    comes in small ones.
    """
    kind = np.dtype(dtype)
    if size * kind.itemsize < HUGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return np.zeros(size, kind)
    length = size * kind.itemsize
    try:
        memory = mmap.mmap(-1, length + HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        everything = np.frombuffer(memory, np.uint8)
        first = -everything.ctypes.data % HUGE
        memory.madvise(mmap.MADV_HUGEPAGE, first, length // HUGE * HUGE)  # a last half-used page would be wasted
    except OSError:  # a kernel without huge pages, or a limit on addresses
        return np.zeros(size, kind)
    everything[first : first + length : mmap.PAGESIZE] = 0
    return everything[first : first + length].view(kind)
