"""Machine code from Python functions: numba, compiled at first use and kept on the disk.

All that numba does at length, its import too, is :func:`~racer.kernels.undisturbed.undisturbed`: a Ctrl-C while the
user is told to wait ends that call, and no later one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar, cast

from racer.kernels.undisturbed import undisturbed

numba = undisturbed(import_module, "numba")
KeptCode: Any = undisturbed(import_module, "racer.kernels.kept_code").KeptCode


OPTIONS: dict[str, Any] = {"fastmath": True, "_nrt": False}
"""Without numba's run-time, which allocates arrays and counts references to them: counting took 60% of the time."""

STAMP = "racer-sources"
"""The file beside kept machine code that says from which sources it was made."""

Number = Any
"""A scalar inside machine code: numba types it by its use, where annotations cannot follow numpy's promotions."""

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function, **options: Any) -> Function:
    """``function`` as machine code. It must keep to numbers and given arrays, and checks no bounds.

    :param options: of ``numba.njit``, above :data:`OPTIONS`.
    """
    machine = numba.njit(**(OPTIONS | options))(function)
    if machine is function:  # NUMBA_DISABLE_JIT gives it back as it is
        return function
    machine._compile_for_args = partial(undisturbed, machine._compile_for_args)
    with contextlib.suppress(RuntimeError, OSError):  # no folder that may be written to: compile in every process
        kept = KeptCode(function)
        _forget_stale(kept.cache_path, function)
        machine._cache = kept
    return cast(Function, machine)


def inlined(function: Function) -> Function:
    """:func:`compiled`, and copied into its callers: a call hands over every array in parts, which costs a
    function of whole structures, called for every node, more than its work (growing a tree took a fifth longer)."""
    return compiled(function, forceinline=True)


def direct(function: Function, *arguments: Any) -> Function:
    """A :func:`compiled` function that was called before, for arguments of exactly the types of these.

    Numba looks at every argument of every call to find the code for its type. Right after a forward pass, when nothing
    is in the processor's caches, that takes 60 us for the seventy arrays of a step; unpacking them takes 15.
    """
    if not isinstance(function, numba.core.dispatcher.Dispatcher):
        return function
    machine = function.overloads[tuple(numba.typeof(argument) for argument in arguments)]
    return cast(Function, machine.entry_point)


def _forget_stale(kept: str, function: Callable[..., Any]) -> None:
    """Drop kept code that was made from other sources: numba looks at the function's own file only, and at its time.

    What a function calls is compiled into it, and lies in its own folder or in this one.

    :raises OSError: the folder cannot be written to, or what is stale stays.
    """
    own = Path(function.__code__.co_filename).parent
    _forget_others(Path(kept), _digest(own) + _digest(Path(__file__).parent))


@cache
def _forget_others(kept: Path, sources: str) -> None:
    """Empty a folder of machine code unless it was made from ``sources``, and note from what it will be made.

    :raises OSError: it cannot be.
    """
    stamp = kept / STAMP
    with contextlib.suppress(OSError, ValueError):  # damaged, or unreadable: as if it were not there
        if stamp.read_text(encoding="utf-8") == sources:
            return
    for code in (*kept.glob("*.nbi"), *kept.glob("*.nbc")):
        code.unlink(missing_ok=True)  # another process may be faster
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=kept, delete=False) as file:
        try:
            file.write(sources)
            file.close()
            os.replace(file.name, stamp)
        except BaseException:
            os.unlink(file.name)
            raise


@cache
def _digest(folder: Path) -> str:
    """Of the contents of a folder's Python files: their times may be those of an archive."""
    digest = hashlib.sha256()
    for source in sorted(folder.glob("*.py")):
        digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    return digest.hexdigest()


def is_kept(function: Any) -> bool:
    """Whether machine code of a :func:`compiled` function lies on the disk (or none is made at all)."""
    if not isinstance(function, numba.core.dispatcher.Dispatcher):
        return True
    folder = function.stats.cache_path
    return bool(folder) and any(Path(folder).glob(f"*{function.py_func.__qualname__}-*.nbi"))
