"""Looking up an index file through the page cache: nothing of it is read into memory ahead of need."""

from __future__ import annotations

import hashlib
import mmap
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from racer_datastore.format import HEADER_SIZE, DatastoreError, Header


class Index:
    """An index file, memory-mapped.

    :param path: what ``racer-datastore build`` wrote.
    :param verify: compare the checksum, which reads the whole file once. Without it only the header and the size are
        checked; a damaged body then costs acceptance, never a wrong output.
    :raises DatastoreError: no such file, no index, another version, cut off or damaged.
    """

    def __init__(self, path: str | Path, *, verify: bool = True) -> None:
        self.path = Path(path)
        try:
            with open(self.path, "rb") as file:
                self.header = Header.unpack(file.read(HEADER_SIZE), self.path)
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise DatastoreError(f"cannot read index {self.path}: {error.strerror or error}") from error
        if len(self._bytes) != self.header.file_size:
            size = f"{len(self._bytes)} bytes, not {self.header.file_size}"
            raise DatastoreError(f"{self.path} is damaged: it has {size}; build it again")
        if verify and self._digest() != self.header.checksum:
            raise DatastoreError(f"{self.path} is damaged: its checksum is wrong; build it again")
        count, self._width = self.header.tokens, self.header.token_bytes
        self.tokens: NDArray[Any] = np.frombuffer(self._bytes, f">u{self._width}", count, HEADER_SIZE)
        """``[n]`` token ids and separators."""
        self.order: NDArray[Any] = np.frombuffer(self._bytes, "<u4", count, HEADER_SIZE + count * self._width)
        """``[n]`` positions, sorted by the ``depth`` tokens that start there."""

    def __len__(self) -> int:
        return self.header.tokens

    def find(self, pattern: Sequence[int]) -> range:
        """Where in ``order`` the suffixes stand that begin with ``pattern``, of at most ``header.depth`` tokens.

        :raises ValueError: the pattern is longer.
        """
        if len(pattern) > self.header.depth:
            raise ValueError(f"a pattern has at most {self.header.depth} tokens, not {len(pattern)}")
        if any(not 0 <= token < self.header.separator for token in pattern):
            return range(0)
        wanted = np.asarray(pattern, self.tokens.dtype).tobytes()
        size, width, data = len(wanted), self._width, self._bytes

        def text(position: Any) -> bytes:
            start = HEADER_SIZE + int(position) * width
            return data[start : start + size]

        first = bisect_left(self.order, wanted, key=text)
        if first == len(self) or text(self.order[first]) != wanted:
            return range(0)
        return range(first, bisect_right(self.order, wanted, lo=first, key=text))

    def longest(self, context: Sequence[int], shortest: int, longest: int) -> tuple[int, range]:
        """The longest suffix of ``context`` that occurs, of ``shortest`` to ``longest`` tokens: how many, and where
        in ``order`` (see :meth:`find`); ``(0, range(0))`` if none does.

        Every suffix of a suffix that occurs occurs too, so the length is found by bisection.
        """
        low, high = shortest, min(longest, len(context), self.header.depth)
        best: tuple[int, range] = (0, range(0))
        while low <= high:
            size = (low + high) // 2
            if found := self.find(context[len(context) - size :]):
                best, low = (size, found), size + 1
            else:
                high = size - 1
        return best

    def continuations(self, found: range, skip: int, samples: int, size: int) -> list[list[int]]:
        """What follows the first ``skip`` tokens of up to ``samples`` suffixes, evenly spread over ``found``.

        Each is ``size`` tokens long; where its text ends before that, the separator stands first.
        """
        count = min(samples, len(found))
        picked = found.start + np.arange(count, dtype=np.int64) * len(found) // max(count, 1)
        starts = self.order[picked].astype(np.int64) + skip
        places = np.minimum(starts[:, None] + np.arange(size), len(self) - 1)  # the last token is a separator
        rows: list[list[int]] = self.tokens[places].tolist()
        return rows

    def _digest(self) -> bytes:
        digest = hashlib.sha256()
        with memoryview(self._bytes) as whole:
            digest.update(whole[HEADER_SIZE:])
        return digest.digest()
