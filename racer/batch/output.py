"""The output file: a line an answer, written whole or not at all, so that a run that was killed can go on."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import attrs
from filelock import FileLock, Timeout

from racer.batch.index import Entry, Index
from racer.errors import ConfigError

BEGINNING = b'{"id": '
"""Of every line that is written here."""


@attrs.frozen
class Found:
    """What an output file held when it was opened."""

    answered: int = 0
    failed: int = 0
    torn: bool = False
    """Whether its last line had been cut off while it was written. It is gone."""


class Output:
    """An output file, open for more; made by :func:`opened`."""

    def __init__(self, path: Path, found: Found) -> None:
        self.path, self.found = path, found
        new = not path.exists()
        self._file = path.open("ab", buffering=0)
        self._failure: OSError | None = None
        if new:
            _keep_name(path)

    def add(self, record: dict[str, Any]) -> None:
        """Append one answer, in one write; behind this it is on the disk.

        :raises OSError: it could not be written whole, and no part of it is left; or an earlier one could not be.
        """
        if self._failure is not None:
            raise self._failure
        data = json.dumps(record, allow_nan=False).encode() + b"\n"
        try:
            self._write(data)
        except OSError as error:
            self._failure = error
            raise

    def _write(self, data: bytes) -> None:
        whole = os.fstat(self._file.fileno()).st_size
        if self._file.write(data) != len(data):
            with suppress(OSError):  # then it is cut off when the run goes on
                os.ftruncate(self._file.fileno(), whole)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Nothing is added any more."""
        self._file.close()


def _keep_name(path: Path) -> None:
    """A new file is lost with its folder's entry, which is written by itself. Not all systems can do that."""
    with suppress(OSError):
        folder = os.open(path.resolve().parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextmanager
def opened(path: Path, index: Index, settings: str) -> Iterator[Output]:
    """Open an output file to go on with, or a new one; what is answered in it is marked in ``index``.

    Nothing is changed in a file that is refused.

    :param settings: the digest of the settings that shape answers.
    :raises ConfigError: it is no output of this input and these settings, or another process is writing it.
    :raises OSError: it cannot be read or written.
    """
    lock = FileLock(f"{os.path.realpath(path)}.lock")  # links to one file are one file
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ConfigError(f"another 'racer batch' is writing {path}: wait for it, or name another file") from None
    try:
        output = Output(path, _examined(path, index, settings))
        try:
            yield output
        finally:
            output.close()
    finally:
        with suppress(OSError):  # Windows keeps files that are open
            Path(lock.lock_file).unlink()
        lock.release()


def _examined(path: Path, index: Index, settings: str) -> Found:
    """Mark what is answered, and cut a torn line off."""
    if not path.exists():
        return Found()
    answered = failed = whole = 0
    torn = b""
    with path.open("rb") as file:
        for number, data in enumerate(file, start=1):
            if not data.endswith(b"\n"):
                torn = data
                break
            whole += len(data)
            good = _take(data, f"{path}, line {number}", index, settings)
            answered, failed = answered + good, failed + (not good)
    if torn:
        _cut(path, torn, whole)
    return Found(answered, failed, bool(torn))


def _cut(path: Path, torn: bytes, whole: int) -> None:
    """Cut off what is no whole line, if it is the beginning of one of ours (or zeros, after a power failure)."""
    begun = torn.rstrip(b"\0")
    if begun[: len(BEGINNING)] != BEGINNING[: len(begun)]:
        raise ConfigError(f"{path} is no output of 'racer batch': its last line is something else")
    os.truncate(path, whole)


def _take(data: bytes, place: str, index: Index, settings: str) -> bool:
    """Mark a line's id as answered; whether it is a good answer."""
    try:
        record = json.loads(data)
        ours = record["racer"]
        key = json.dumps(record.get("custom_id", record["id"]))
        written, digest = ours["settings"], ours["input"]
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        raise ConfigError(
            f"{place} was not written by 'racer batch': name another output file, or delete that line"
        ) from None
    if written != settings:
        raise ConfigError(
            f"{place} was written with other settings (model, dtype, weights, temperature, top-p, seed, "
            "max-new-tokens, system, raw): go on with those of that run, or name another output file"
        )
    _check(index.find(key), key, digest, place)
    index.mark(key)
    return record.get("error") is None


def _check(entry: Entry | None, key: str, digest: str, place: str) -> None:
    if entry is None:
        raise ConfigError(f"{place} answers id {key}, which the input has not: name the output of this input")
    if entry.digest != digest:
        raise ConfigError(
            f"{place} answers id {key}, but line {entry.number} of the input, which has it, reads otherwise now: "
            "delete the answer, or name another output file"
        )
    if entry.done:
        raise ConfigError(f"{place} answers id {key} for the second time: delete one of the two")
