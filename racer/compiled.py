"""Machine code from Python functions: numba, compiled at first use and kept on the disk."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

OPTIONS: dict[str, Any] = {"fastmath": True, "_nrt": False}
"""Without numba's run-time, which allocates arrays and counts references to them: counting took 60% of the time."""

Number = Any
"""A scalar inside machine code: numba types it by its use, where annotations cannot follow numpy's promotions."""

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function, **options: Any) -> Function:
    """``function`` as machine code. It must keep to numbers and given arrays, and checks no bounds.

    :param options: of ``numba.njit``, above :data:`OPTIONS`.
    """
    options = OPTIONS | options
    try:
        machine = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # numba found no folder that it may write to: compile in every process
        return cast(Function, numba.njit(**options)(function))
    if machine is not function:  # NUMBA_DISABLE_JIT gives it back as it is
        _forget_stale(machine)
    return cast(Function, machine)


def direct(function: Function, *arguments: Any) -> Function:
    """A :func:`compiled` function that was called before, for arguments of exactly the types of these.

    Numba looks at every argument of every call to find the code for its type. Right after a forward pass, when nothing
    is in the processor's caches, that takes 60 us for the seventy arrays of a step; unpacking them takes 15.
    """
    if not isinstance(function, numba.core.dispatcher.Dispatcher):
        return function
    machine = function.overloads[tuple(numba.typeof(argument) for argument in arguments)]
    return cast(Function, machine.entry_point)


def _forget_stale(machine: Any) -> None:
    """Drop kept code that is older than this file or any of its own folder: numba looks at the function's own only."""
    newest = max(_newest_source(Path(machine.py_func.__code__.co_filename).parent), Path(__file__).stat().st_mtime_ns)
    for kept in Path(machine.stats.cache_path).glob(f"*{machine.py_func.__qualname__}-*.nbi"):
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            if kept.stat().st_mtime_ns < newest:
                kept.unlink()


def is_kept(function: Any) -> bool:
    """Whether machine code of a :func:`compiled` function lies on the disk (or none is made at all)."""
    if not isinstance(function, numba.core.dispatcher.Dispatcher):
        return True
    folder = function.stats.cache_path
    return bool(folder) and any(Path(folder).glob(f"*{function.py_func.__qualname__}-*.nbi"))


@cache
def _newest_source(folder: Path) -> int:
    return max(source.stat().st_mtime_ns for source in folder.glob("*.py"))
