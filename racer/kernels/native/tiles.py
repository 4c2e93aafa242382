"""The processor's tiles (Intel's AMX): eight registers of 16 lines of 64 bytes each.

One instruction adds the products of two of them to a third, which holds 16 lines of 16 sums in float32: of a line of
the first, 32 numbers in bf16, with what the second's 16 lines hold, two numbers of each of 16 columns.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from llvmlite import ir

from racer.kernels.native.assembling import NotHere, host_has
from racer.kernels.native.emitting import BYTE, BYTES, INT, LONG, VOID, Emitter, long, transposed, vector

SIDE = 16
"""Lines of a tile, and numbers of 4 bytes in each."""
STEP = 32
"""Numbers in bf16 of a line."""
LINE = 64
TILE = SIDE * LINE
"""Bytes."""
_SETTINGS = LINE
"""Bytes that say how large each tile is: a palette, then from the 16th on bytes of lines, from the 48th on lines."""

_ARCH_PRCTL, _REQUEST, _TILE_DATA = 158, 0x1023, 18
"""Linux' call by which a process asks for tiles (Documentation/arch/x86/xstate.rst)."""


def need_tiles() -> None:
    """:raises NotHere: the processor has no tiles for bf16, or the system gives this process none."""
    if not _given():
        raise NotHere("there are no tiles for bf16")


@cache
def _given() -> bool:
    if sys.platform != "linux" or platform.machine() != "x86_64" or not host_has("amx-tile", "amx-bf16", "avx512f"):
        return False
    try:
        refused: int = ctypes.CDLL(None).syscall(_ARCH_PRCTL, _REQUEST, _TILE_DATA)
    except (AttributeError, OSError):
        return False
    return refused == 0


@contextmanager
def all_tiles(emit: Emitter) -> Iterator[None]:
    """In the body all eight are there in full; after it, what others in this thread had set up is again."""
    build = emit.build
    before, ours = (build.bitcast(build.alloca(vector(BYTE, _SETTINGS)), BYTES) for _ in range(2))
    sizes = [0] * _SETTINGS
    sizes[0] = 1
    for tile in range(8):
        sizes[16 + 2 * tile], sizes[48 + tile] = LINE, SIDE
    emit.store(ir.Constant(vector(BYTE, _SETTINGS), sizes), ours, 0)
    emit.call("llvm.x86.sttilecfg", VOID, before)
    emit.call("llvm.x86.ldtilecfg", VOID, ours)
    yield
    emit.call("llvm.x86.ldtilecfg", VOID, before)


def zero(emit: Emitter, tile: int) -> None:
    emit.call("llvm.x86.tilezero", VOID, _number(tile))


def fill(emit: Emitter, tile: int, place: Any, stride: Any) -> None:
    """With lines that begin ``stride`` bytes one after the other."""
    emit.call("llvm.x86.tileloadd64", VOID, _number(tile), place, _bytes(stride))


def empty(emit: Emitter, tile: int, place: Any, stride: Any) -> None:
    """Write it there."""
    emit.call("llvm.x86.tilestored64", VOID, _number(tile), place, _bytes(stride))


def multiply(emit: Emitter, sums: int, lines: int, columns: int) -> None:
    """Add to the sums."""
    emit.call("llvm.x86.tdpbf16ps", VOID, _number(sums), _number(lines), _number(columns))


def sort_columns(emit: Emitter, starts: list[Any], size: Any, to: Any) -> Any:
    """Write what is to be columns, 16 rows of ``size`` bytes at ``starts``, as tiles one behind the other; the place
    behind the last."""
    build, place = emit.build, emit.variable(to)
    with emit.loop(size, step=LINE) as offset:
        lines = [emit.load(start, offset, vector(INT, SIDE)) for start in starts]
        now = build.load(place)
        for i, line in enumerate(transposed(emit, lines)):
            emit.store(line, now, LINE * i)
        build.store(build.gep(now, [long(TILE)]), place)
    return build.load(place)


def aligned(emit: Emitter, place: Any) -> Any:
    """The first line behind it."""
    build = emit.build
    return build.inttoptr(build.and_(build.add(build.ptrtoint(place, LONG), long(LINE - 1)), long(-LINE)), BYTES)


def least(emit: Emitter, left: Any, right: Any) -> Any:
    return emit.build.select(emit.build.icmp_signed("<", left, right), left, right)


def _number(tile: int) -> ir.Constant:
    return ir.Constant(BYTE, tile)


def _bytes(stride: Any) -> Any:
    return long(stride) if isinstance(stride, int) else stride
