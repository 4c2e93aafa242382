"""From LLVM's intermediate language to functions that Python can call, kept on the disk once they are made."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite
import platformdirs
from llvmlite import binding, ir

from racer.errors import first_line
from racer.files import write_whole

log = logging.getLogger(__name__)

Function = Callable[..., None]
DIGEST = hashlib.sha256().digest_size

_lock = threading.RLock()
_failures: dict[str, str] = {}
"""Why there is no function of a name: LLVM would take as long again to say so again."""
_alive: list[Any] = []
"""Engines own the code that was made."""


class NotHere(Exception):
    """This machine, or this llvmlite, cannot run such code; the message says why."""


def host_has(*features: str) -> bool:
    """Whether this machine's processor has all that LLVM calls so."""
    found = _features()
    return all(found.get(feature, False) for feature in features)


@cache
def _features() -> Any:
    try:
        return binding.get_host_cpu_features()
    except RuntimeError:  # of a processor that LLVM knows nothing of
        return binding.FeatureMap()


def _target() -> Any:
    """A new one: an engine owns the one that it is given, and they go together."""
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    features = _features().flatten() + (",-prefer-256-bit" if host_has("avx512f") else "")
    return binding.Target.from_default_triple().create_target_machine(
        cpu=binding.get_host_cpu_name(), features=features, opt=3, jit=True
    )


@cache
def team() -> bool:
    """Whether there is a way to run in the threads that torch has already: GNU's OpenMP, or one that speaks it.

    A second set of threads would fight with them for the cores, as threads wait for work by turning.
    """
    try:
        address = ctypes.cast(ctypes.CDLL(None).GOMP_parallel, ctypes.c_void_p).value
    except (AttributeError, OSError, TypeError):
        return False
    if address is None:
        return False
    binding.add_symbol("GOMP_parallel", address)
    return True


def assembled(name: str, types: tuple[Any, ...], write: Callable[[], ir.Module]) -> Function:
    """The function ``name`` of a module, as ctypes calls it (without Python's lock).

    :param types: ctypes of its arguments.
    :param write: writes the module, if it is not on the disk; what it writes may depend on ``name`` alone.
    :raises NotHere: there can be none.
    """
    with _lock:
        if not team():
            raise NotHere("torch runs no threads of GNU's OpenMP here")
        if name in _failures:
            raise NotHere(_failures[name])
        try:
            target = _target()
            key = hashlib.sha256("\0".join((name, *_maker())).encode()).hexdigest()
            kept = _read(key)
            if kept is None:
                kept = _compiled(write(), target)
                _write(key, kept)
            return _loaded(kept, target, name, types)
        except (RuntimeError, AttributeError, OSError) as error:
            _failures[name] = f"LLVM cannot do it: {first_line(error)}"
            raise NotHere(_failures[name]) from error


def _compiled(module: ir.Module, target: Any) -> bytes:
    module.triple, module.data_layout = target.triple, str(target.target_data)
    parsed = binding.parse_assembly(str(module))
    parsed.verify()
    builder = binding.create_pass_builder(target, binding.create_pipeline_tuning_options(speed_level=3))
    builder.getModulePassManager().run(parsed, builder)
    code: bytes = target.emit_object(parsed)
    return code


def _loaded(code: bytes, target: Any, name: str, types: tuple[Any, ...]) -> Function:
    engine = binding.create_mcjit_compiler(binding.parse_assembly(""), target)
    engine.add_object_file(binding.ObjectFileRef.from_data(code))
    engine.finalize_object()
    address = engine.get_function_address(name)
    if not address:
        raise RuntimeError(f"{name} is not in its own code")
    _alive.append(engine)
    return ctypes.CFUNCTYPE(None, *types)(address)


# -- on the disk ------------------------------------------------------------------------------------------------------


@cache
def _maker() -> tuple[str, ...]:
    """What code depends on beside its name: the processor, llvmlite, and the sources here."""
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    return binding.get_host_cpu_name(), _features().flatten(), llvmlite.__version__, digest.hexdigest()


def _folder() -> Path:
    return Path(os.environ.get("RACER_CACHE") or platformdirs.user_cache_dir("racer")).expanduser() / "native"


def _read(key: str) -> bytes | None:
    """What is kept there and whole."""
    try:
        kept = (_folder() / key).read_bytes()
    except (OSError, RuntimeError):  # there is no home
        return None
    return kept[DIGEST:] if hashlib.sha256(kept[DIGEST:]).digest() == kept[:DIGEST] else None


def _write(key: str, code: bytes) -> None:
    try:
        folder = _folder()
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / key, hashlib.sha256(code).digest() + code)
    except (OSError, RuntimeError) as error:
        log.info("machine code is not kept: %s", error)
