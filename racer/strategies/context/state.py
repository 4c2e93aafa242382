"""The drafter's memory as a file: safetensors, checked before a single value is believed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as safetensors_load
from safetensors.numpy import save_file

from racer.errors import StateError
from racer.strategies.context.hash_table import IDS, TAG, Words, probs_column
from racer.strategies.context.hashing import NO_TOKEN
from racer.strategies.context.memory import Memory
from racer.strategies.context.schema import schema_hash

FORMAT = "racer-state"
VERSION = "4"
"""Of the file's arrays. What they mean is in the schema; raise this for what is in no constant, such as hashing."""

Arrays = dict[str, NDArray[Any]]


def save(memory: Memory, path: str | Path, fingerprint: str) -> None:
    """Write ``memory`` to ``path``. The old file stays whole until the new one is.

    :param fingerprint: names the model and tokenizer whose tokens these are.
    :raises OSError: the file cannot be written.
    """
    path, arrays = Path(path), _arrays(memory)
    if path.exists() and not path.is_file():
        raise OSError(f"{path} is no regular file, which a new one could take the place of")
    about = {
        "format": FORMAT,
        "version": VERSION,
        "schema": schema_hash(),
        "fingerprint": fingerprint,
        "sha256": _digest(arrays),
    }
    handle, name = tempfile.mkstemp(prefix=path.name, suffix=".part", dir=path.parent)
    os.close(handle)
    try:
        try:
            save_file(arrays, name, about)
        except SafetensorError as error:  # a full disk
            raise OSError(f"cannot write {path}: {error}") from error
        with open(name, "rb+") as written:
            os.fsync(written.fileno())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise


def load(memory: Memory, path: str | Path, fingerprint: str) -> None:
    """Fill ``memory`` with what :func:`save` wrote; nothing is changed if the file is refused.

    :raises StateError: it is no such file, damaged, of another version, model, tokenizer or size, or of other features.
    :raises OSError: it cannot be read.
    """
    about, found = _read(Path(path))
    _check_about(about, path, fingerprint)
    kept = _arrays(memory)
    for name, array in kept.items():
        if name not in found or found[name].shape != array.shape or found[name].dtype != array.dtype:
            raise StateError(
                f"{path} is of another size ({name}): make Racer(top_k, slots, history) as when it was saved"
            )
    if about.get("sha256") != _digest(found) or not _sane(found):
        raise StateError(f"{path} is damaged: delete it and start afresh")
    for name, array in kept.items():
        array[:] = found[name]


def _read(path: Path) -> tuple[dict[str, str], Arrays]:
    """What a file says of itself, and its arrays. Read, not mapped: one that is cut off meanwhile ends no process."""
    data = path.read_bytes()
    try:
        found: Arrays = safetensors_load(data)
        about = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__") or {}
    except (SafetensorError, KeyError, ValueError, TypeError) as error:  # also: of a type that numpy has not
        raise StateError(f"{path} is no state of the drafter, or damaged: {error}") from error
    return about, found


def _check_about(about: dict[str, str], path: str | Path, fingerprint: str) -> None:
    """Refuse a file by what it says of itself."""
    if about.get("format") != FORMAT:
        raise StateError(f"{path} is no state of the drafter: save one with Racer.save")
    if about.get("version") != VERSION:
        raise StateError(f"{path} has version {about.get('version')}, expected {VERSION}: delete it and start afresh")
    if about.get("schema") != schema_hash():
        raise StateError(f"{path} was saved by a drafter with other features: delete it and start afresh")
    if about.get("fingerprint") != fingerprint:
        raise StateError(f"{path} was saved with another model or tokenizer: keep one file for each")


def _arrays(memory: Memory) -> Arrays:
    """Everything that is saved; a table's ``reals`` are its ``words``."""
    return {
        f"{part}.{name}": array
        for part, arrays in memory._asdict().items()
        if part != "enabled"
        for name, array in arrays._asdict().items()
        if name != "reals"
    }


def _digest(arrays: Arrays) -> str:
    """Safetensors has no checksum of its own."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return digest.hexdigest()


def _sane(found: Arrays) -> bool:
    """Whether machine code that checks no bounds may use these: a checksum tells damage, not malice."""
    tables = all(_sane_table(found[f"{name}.words"]) for name in ("top_k", "means"))
    ids = all((found[name] >= NO_TOKEN).all() for name in ("past.tokens", "past.latest"))
    length = 0 <= int(found["past.length"][0]) < 2**62
    links = bool((found["past.older"] >= 0).all() and (found["past.latest"] < found["past.length"][0]).all())
    requests = bool(found["top_k.requests"][0] >= 0)
    numbers = all(np.isfinite(found[name]).all() for name in found if found[name].dtype == np.float32)
    counted = bool((found["estimator.calibration_seen"] > 0).all())
    return tables and ids and length and links and requests and numbers and counted


def _sane_table(words: Words) -> bool:
    split = probs_column(words)
    heads, ids, probs = words[:, TAG:IDS], words[:, IDS:split], words[:, split:].view(np.float32)
    return bool((heads >= 0).all() and (ids >= NO_TOKEN).all() and np.isfinite(probs).all())
