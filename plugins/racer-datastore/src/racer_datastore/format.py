"""The index file: one header, the tokens, and the order of their suffixes.

======  ============================================================================================
bytes   content
======  ============================================================================================
8       magic ``RACERIDX``
2       version, 1
1       bytes per token, 2 or 4
1       depth: how many tokens of each suffix are in order
4       largest token id
8       n: tokens, the separators between texts included
32      fingerprint: SHA-256 of the tokenizer's vocabulary
32      SHA-256 of everything after the header
32      SHA-256 of the header up to here
w * n   tokens, big-endian, so that slices compare as bytes; the largest number is the separator
4 * n   positions in the order of their suffixes, little-endian
======  ============================================================================================

The numbers of the header are little-endian.
"""

from __future__ import annotations

import hashlib
import os
import struct
from array import array
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import attrs
import numpy as np
from numpy.typing import NDArray

from racer.errors import ConfigError
from racer_datastore.sorting import sort_suffixes

MAGIC = b"RACERIDX"
VERSION = 1
DEPTH = 16
"""Longest context that is looked up, unless another depth is asked for."""
MAX_TOKENS = 2**31 - 1
SEPARATOR = 2**32 - 1
"""Ends a text while the index is built; in the file it is the largest number that a token's bytes can hold."""

_FIELDS = struct.Struct("<8sHBBIQ32s32s")
_DIGEST = 32
HEADER_SIZE = _FIELDS.size + _DIGEST


class DatastoreError(ConfigError):
    """An index file cannot be used, or cannot be built; the message says why and what mends it."""


@attrs.frozen(kw_only=True)
class Header:
    """What an index file says of itself."""

    token_bytes: int
    depth: int
    max_id: int
    """Largest token id in the texts."""
    tokens: int
    """Tokens, with one separator per text."""
    fingerprint: bytes
    checksum: bytes
    version: int = VERSION

    @property
    def separator(self) -> int:
        """Stands at the end of each text; no token id."""
        return int(2 ** (8 * self.token_bytes) - 1)

    @property
    def file_size(self) -> int:
        return HEADER_SIZE + self.tokens * (self.token_bytes + 4)

    def pack(self) -> bytes:
        """``HEADER_SIZE`` bytes."""
        fields = (self.version, self.token_bytes, self.depth, self.max_id, self.tokens, self.fingerprint, self.checksum)
        packed = _FIELDS.pack(MAGIC, *fields)
        return packed + hashlib.sha256(packed).digest()

    @classmethod
    def unpack(cls, data: bytes, path: Path) -> Header:
        """Read a header from the first ``HEADER_SIZE`` bytes of ``path``.

        :raises DatastoreError: it is none, or of another version, or damaged.
        """
        if data[: len(MAGIC)] != MAGIC:
            raise DatastoreError(f"{path} is not a datastore index; 'racer-datastore build' makes one")
        if len(data) < HEADER_SIZE:
            raise DatastoreError(f"{path} is damaged: it ends within its header; build it again")
        _, version, *fields = _FIELDS.unpack_from(data)
        if version != VERSION:
            raise DatastoreError(f"{path} has index version {version}, this program reads {VERSION}; build it again")
        if hashlib.sha256(data[: _FIELDS.size]).digest() != data[_FIELDS.size : HEADER_SIZE]:
            raise DatastoreError(f"{path} is damaged: the header's checksum is wrong; build it again")
        names = ("token_bytes", "depth", "max_id", "tokens", "fingerprint", "checksum")
        return cls(**dict(zip(names, fields, strict=True)))


def write_index(path: str | Path, texts: Iterable[Iterable[int]], fingerprint: bytes, depth: int = DEPTH) -> Header:
    """Index ``texts`` (token ids) into ``path``; the file appears whole or not at all.

    :param fingerprint: 32 bytes, see :func:`racer_datastore.fingerprint`.
    :param depth: longest context that can be looked up, in tokens.
    :raises DatastoreError: no tokens, too many (``MAX_TOKENS``), an id outside 0 to 2**32 - 2, a bad depth, or
        ``path`` is no regular file.
    """
    if Path(path).exists() and not Path(path).is_file():
        raise DatastoreError(f"{path} is no regular file, which a new one could take the place of")
    if not 2 <= depth <= 255:
        raise DatastoreError(f"depth must be from 2 to 255 tokens, not {depth}")
    ids = array("I")
    for text in texts:
        size = len(ids)
        try:
            ids.extend(text)
        except OverflowError:
            raise DatastoreError("a token id lies outside 0 to 2**32 - 2") from None
        if SEPARATOR in ids[size:]:
            raise DatastoreError("a token id lies outside 0 to 2**32 - 2")
        if len(ids) > size:
            ids.append(SEPARATOR)
        if len(ids) > MAX_TOKENS:
            raise DatastoreError(f"the corpus has more than {MAX_TOKENS} tokens; build several indexes")
    if not ids:
        raise DatastoreError("the corpus has no text")
    return _write(Path(path), np.frombuffer(ids, dtype=np.uint32), fingerprint, depth)


def _write(path: Path, ids: NDArray[np.uint32], fingerprint: bytes, depth: int) -> Header:
    max_id = int(ids[ids != SEPARATOR].max())
    width = 2 if max_id < 2**16 - 1 else 4
    tokens = ids.astype(f">u{width}")  # cuts the separator to its file form
    parts = [tokens.tobytes(), sort_suffixes(tokens, depth).astype("<u4").tobytes()]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    header = Header(
        token_bytes=width,
        depth=depth,
        max_id=max_id,
        tokens=len(ids),
        fingerprint=fingerprint,
        checksum=digest.digest(),
    )
    write_whole(path, [header.pack(), *parts])
    return header


def write_whole(path: Path, parts: Iterable[bytes]) -> None:
    """Write beside ``path``, then rename: a reader never sees half a file, and a failure leaves the old one."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(beside, "xb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        with suppress(FileNotFoundError):
            beside.unlink()
        raise
