"""Looking up an index file.

Small ones are read into memory. Larger ones are looked up through the page cache, and nothing of them is read ahead of
need. Reading a mapped file beyond its end would end the process, and a file can be cut off by anybody at any time. So
its size is compared before each lookup; the moment between the two cannot be excluded. ``racer-datastore build`` never
cuts a file off: it puts the new one in the place of the old one, which whoever has it open keeps.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from racer_datastore.format import HEADER_SIZE, DatastoreError, Header

IN_MEMORY = 256 * 2**20
"""Bytes of the largest file that is read into memory."""


class Index:
    """An index file, in memory or memory-mapped.

    :param path: what ``racer-datastore build`` wrote.
    :param verify: compare the checksum, which reads the whole file once. Without it only the header and the size are
        checked; a damaged body then costs acceptance, never a wrong output.
    :param in_memory: bytes of the largest file that is read into memory.
    :raises DatastoreError: no such file, no index, another version, cut off or damaged.
    """

    def __init__(self, path: str | Path, *, verify: bool = True, in_memory: int = IN_MEMORY) -> None:
        self.path = Path(path)
        try:
            with open(self.path, "rb") as file:
                self.header = Header.unpack(file.read(HEADER_SIZE), self.path)
                self._bytes = self._content(file, in_memory)
        except DatastoreError:
            raise
        except (OSError, ValueError) as error:  # also: a NUL in its name
            reason = getattr(error, "strerror", None) or error
            raise DatastoreError(f"cannot read index {self.path}: {reason}") from error
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

    def _content(self, file: BinaryIO, in_memory: int) -> bytes | mmap.mmap:
        size = os.fstat(file.fileno()).st_size
        if size <= in_memory:
            file.seek(0)
            return file.read(self.header.file_size + 1)  # no device without an end
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def check_size(self) -> None:
        """See that a mapped file is as long as ever.

        :raises DatastoreError: it was cut off.
        """
        if isinstance(self._bytes, mmap.mmap) and self._bytes.size() < len(self._bytes):
            raise DatastoreError(f"{self.path} was cut off while it was in use; build it again, and open it again")

    def __len__(self) -> int:
        return self.header.tokens

    def find(self, pattern: Sequence[int]) -> range:
        """Where in ``order`` the suffixes stand that begin with ``pattern``, of at most ``header.depth`` tokens.

        :raises ValueError: the pattern is longer.
        """
        self.check_size()
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
        self.check_size()
        count = min(samples, len(found))
        picked = found.start + np.arange(count, dtype=np.int64) * len(found) // max(count, 1)
        starts = self.order[picked].astype(np.int64) + skip
        places = np.minimum(starts[:, None] + np.arange(size), len(self) - 1)  # the last token is a separator
        rows: list[list[int]] = self.tokens[places].tolist()
        return rows

    def _digest(self) -> bytes:
        self.check_size()
        digest = hashlib.sha256()
        with memoryview(self._bytes) as whole:
            digest.update(whole[HEADER_SIZE:])
        return digest.digest()
