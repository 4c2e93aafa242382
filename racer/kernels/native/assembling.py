"""From LLVM's intermediate language to functions that Python can call, kept on the disk once they are made."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite
import platformdirs
from llvmlite import binding, ir

from racer.errors import first_line
from racer.files import write_whole
from racer.kernels.native.emitting import BYTES, LONG, Emitter

log = logging.getLogger(__name__)

Function = Any
"""``function(*arguments)``, and its ``name`` and ``by_list``."""
KEPT = 90 * 86400
"""Seconds that machine code stays on the disk."""
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


def multiplies_bf16() -> bool:
    """Whether this machine's processor has products of bf16."""
    return host_has("avx512bf16") or host_has("amx-bf16")


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


def assembled(name: str, types: tuple[Any, ...], write: Callable[[], ir.Module], by_list: bool = False) -> Function:
    """The function ``name`` of a module, as ctypes calls it (without Python's lock).

    Its ``by_list`` is the address of the same function with its arguments in a list of 8 bytes each.

    :param types: ctypes of its arguments.
    :param by_list: whether it takes a list itself.
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
                module = write()
                if not by_list:
                    _add_by_list(module, name)
                kept = _compiled(module, target)
                _write(key, kept)
            return _loaded(kept, target, name, types, by_list)
        except (RuntimeError, AttributeError, OSError) as error:
            _failures[name] = f"LLVM cannot do it: {first_line(error)}"
            raise NotHere(_failures[name]) from error


def _add_by_list(module: ir.Module, name: str) -> None:
    """A function beside the one of this name that finds its arguments in memory."""
    function: Any = module.globals.get(name)
    if function is None:
        raise RuntimeError(f"{name} is not in its own code")
    emit = Emitter(module, f"{name}_by_list", [BYTES], shared=True)
    build, arguments = emit.build, []
    for index, kind in enumerate(function.ftype.args):
        if isinstance(kind, ir.PointerType):
            arguments.append(build.inttoptr(emit.load(emit.arguments[0], 8 * index, LONG), kind))
        else:
            arguments.append(emit.load(emit.arguments[0], 8 * index, kind))
    build.call(function, arguments)
    build.ret_void()


def _compiled(module: ir.Module, target: Any) -> bytes:
    module.triple, module.data_layout = target.triple, str(target.target_data)
    parsed = binding.parse_assembly(str(module))
    parsed.verify()
    builder = binding.create_pass_builder(target, binding.create_pipeline_tuning_options(speed_level=3))
    builder.getModulePassManager().run(parsed, builder)
    code: bytes = target.emit_object(parsed)
    return code


def _loaded(code: bytes, target: Any, name: str, types: tuple[Any, ...], by_list: bool) -> Function:
    engine = binding.create_mcjit_compiler(binding.parse_assembly(""), target)
    engine.add_object_file(binding.ObjectFileRef.from_data(code))
    engine.finalize_object()
    address = engine.get_function_address(name)
    if not address:
        raise RuntimeError(f"{name} is not in its own code")
    _alive.append(engine)
    function: Any = ctypes.CFUNCTYPE(None, *types)(address)
    function.name = name
    function.by_list = engine.get_function_address(name if by_list else f"{name}_by_list")
    return function


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
        for old in folder.iterdir():  # of earlier sources
            if time.time() - old.stat().st_mtime > KEPT:
                old.unlink(missing_ok=True)
    except (OSError, RuntimeError) as error:
        log.info("machine code is not kept: %s", error)
