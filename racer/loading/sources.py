"""Where a model is, by its name: a folder, a GGUF file, or a hub id. Nothing is read, no network is asked."""

from __future__ import annotations

import re
from pathlib import Path

import attrs

from racer.errors import ModelNotFound
from racer.loading.extras import require

_HUB_ID = re.compile(r"(?!\.)[\w.-]{1,96}(/[\w.-]{1,96})?", re.ASCII)


@attrs.frozen
class Source:
    """What ``from_pretrained`` is told."""

    place: str
    gguf: str | None = None
    hub: bool = False
    blocks: Path | None = None
    """The file that has the same weights in few bits: a GGUF, or what :func:`racer.loading.keeping.save` wrote."""


def find(name: str) -> Source:
    """Tell a path from a hub id, and look whether the path has a model. Reads no weights, asks no network.

    :raises ModelNotFound: the path does not exist, or has no model.
    :raises ConfigError: it is a GGUF file, and what reads these is not installed.
    """
    try:
        path = Path(name).expanduser()
        path.stat()
    except PermissionError as error:
        raise ModelNotFound(f"the model {name} cannot be read: {error.strerror}") from error
    except (OSError, ValueError, RuntimeError):  # also: too long, a NUL within, the home of nobody
        return _on_the_hub(name)
    if path.is_file() and path.suffix == ".gguf":
        return _gguf(path)
    if path.is_dir() and name:
        return _in_folder(name, path)
    if not name:
        return _on_the_hub(name)
    raise ModelNotFound(f"{name} is not a model: give a folder, a .gguf file or a hub id")


def _on_the_hub(name: str) -> Source:
    """Nothing here has this name.

    :raises ModelNotFound: nothing there can have it.
    """
    if not _HUB_ID.fullmatch(name) or name.endswith(".gguf"):
        raise ModelNotFound(f"no such model folder or file: {_shown(name)}")
    return Source(name, hub=True)


def _shown(name: str) -> str:
    short = name if len(name) <= 100 else f"{name[:60]}...{name[-30:]}"
    return (short if short.isprintable() else repr(short)) or "(empty name)"


def _in_folder(name: str, path: Path) -> Source:
    if (path / "config.json").is_file():
        return Source(str(path))
    files = sorted(file.name for file in path.glob("*.gguf"))
    if len(files) == 1:
        return _gguf(path / files[0])
    if files:
        raise ModelNotFound(f"the folder {name} has several .gguf files; name one: {', '.join(files)}")
    raise ModelNotFound(f"the folder {name} has no model: expected a config.json with weights, or a .gguf file")


def _gguf(file: Path) -> Source:
    require("gguf", f"the GGUF file {file.name}")
    return Source(str(file.parent), gguf=file.name, blocks=file)
