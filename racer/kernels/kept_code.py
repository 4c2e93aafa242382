"""Machine code on the disk, as numba keeps it, with a checksum: what is damaged is made anew, never believed.

Numba reads what it finds. A file that was cut off would end every call, and one with a wrong bit the process. Where
nothing can be written (a full disk, a folder that is read-only by now) code is compiled in every process.
"""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba.core.caching import FunctionCache, IndexDataCacheFile

log = logging.getLogger(__name__)

DIGEST = hashlib.sha256().digest_size


class KeptCode(FunctionCache):  # type: ignore[misc]  # numba is untyped
    """The machine code of one function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        self._cache_file = _CheckedFiles(
            cache_path=self._cache_path,
            filename_base=self._impl.filename_base,
            source_stamp=self._impl.locator.get_source_stamp(),
        )

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception as error:
            log.info("machine code of %s is made anew: %r", self._name, error)
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except Exception as error:
            log.info("machine code of %s is not kept: %r", self._name, error)


class _CheckedFiles(IndexDataCacheFile):  # type: ignore[misc]
    """Index and code, each behind the digest of the rest of its file."""

    def _load_index(self) -> dict[Any, str]:
        """What is there; nothing where the index is of other sources or damaged, or cannot be read."""
        try:
            version, stamp, overloads = self._read(self._index_name)
        except (OSError, ValueError):
            return {}
        return overloads if (version, stamp) == (self._version, self._source_stamp) else {}

    def _save_index(self, overloads: dict[Any, str]) -> None:
        self._write(self._index_name, (self._version, self._source_stamp, overloads))

    def _load_data(self, name: str) -> Any:
        """:raises OSError, ValueError: it cannot be read, or is damaged."""
        return self._read(name)

    def _save_data(self, name: str, data: Any) -> None:
        self._write(name, data)

    def _read(self, name: str) -> Any:
        whole = Path(self._data_path(name)).read_bytes()
        digest, data = whole[:DIGEST], whole[DIGEST:]
        if hashlib.sha256(data).digest() != digest:
            raise ValueError(f"{name} is damaged")
        return pickle.loads(data)

    def _write(self, name: str, content: Any) -> None:
        path, data = self._data_path(name), self._dump(content)
        beside = f"{path}.{os.getpid()}.{id(data):x}.part"
        try:
            with open(beside, "xb") as file:
                file.write(hashlib.sha256(data).digest() + data)
            os.replace(beside, path)
        except BaseException:
            Path(beside).unlink(missing_ok=True)
            raise
