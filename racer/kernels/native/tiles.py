"""Rows times a weight in bf16 as it lies, ``[out, in]``, in the processor's tiles (Intel's AMX), summed in float32.

A tile holds 16 lines of 64 bytes. One instruction adds the products of two tiles to a third: of 16 outputs' weights,
32 numbers of each, with 16 rows' numbers. The weight's lines are loaded as they lie; it is the rows, much fewer, that
are sorted first. So a weight is read once, at the rate of the memory, for hundreds of rows.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Sequence
from functools import cache
from typing import Any

from llvmlite import ir

from racer.kernels.native.assembling import Function, NotHere, assembled, host_has
from racer.kernels.native.dense import BIAS, IN, JOB, OUT, WEIGHT
from racer.kernels.native.emitting import (
    BYTE,
    BYTES,
    FLOAT,
    INT,
    LONG,
    VOID,
    Emitter,
    Numbers,
    long,
    splat,
    transposed,
    vector,
)
from racer.kernels.native.team import PRODUCT, job_of, pieces, run_by_all

SIDE = 16
"""Lines of a tile, and numbers of 4 bytes in each."""
STEP = 32
"""Numbers of a weight that are multiplied at once: inputs must be whole steps, and outputs whole sides."""
LINE = 64
TILE = SIDE * LINE
"""Bytes."""
SIZES = (2, 1)
"""Tiles of outputs, and of rows, that are found together: with those of their sums there are eight, which is all."""
CHUNK = 8 * SIDE
"""Outputs that a thread takes at once: some lines that lie one behind the other. To ask for the next ones beforehand
takes as long as it gains."""
SETTINGS = LINE
"""Bytes that say how large each tile is: a palette, then from the 16th on bytes of lines, from the 48th on lines."""

_ARCH_PRCTL, _REQUEST, _TILE_DATA = 158, 0x1023, 18
"""Linux' call by which a process asks for tiles (Documentation/arch/x86/xstate.rst)."""


@cache
def _allowed() -> bool:
    """Whether this process may use tiles."""
    if sys.platform != "linux" or platform.machine() != "x86_64" or not host_has("amx-tile", "amx-bf16", "avx512f"):
        return False
    try:
        refused: int = ctypes.CDLL(None).syscall(_ARCH_PRCTL, _REQUEST, _TILE_DATA)
    except (AttributeError, OSError):
        return False
    return refused == 0


@cache
def tile_product() -> Function:
    """As :func:`racer.kernels.native.dense.dense_product` in bf16, for any number of rows.

    Outputs must be a multiple of :data:`SIDE`, and inputs one of :data:`STEP`.

    :raises NotHere: the processor has no tiles, or the system gives none.
    """
    if not _allowed():
        raise NotHere("there are no tiles for bf16")
    name = "tiles_bf16"

    def write() -> ir.Module:
        module = ir.Module()
        blocks = {(high, wide): _block(module, high, wide) for high in SIZES for wide in SIZES}
        _entry(module, name, _sorting(module), _worker(module, blocks))
        return module

    return assembled(name, PRODUCT, write)


@cache
def tiles_here() -> bool:
    """Whether there is such code."""
    try:
        tile_product()
    except NotHere:
        return False
    return True


def _tile(number: int) -> ir.Constant:
    return ir.Constant(BYTE, number)


def _settings(emit: Emitter) -> Any:
    """All eight tiles in full."""
    place = emit.build.alloca(vector(BYTE, SETTINGS))
    sizes = [0] * SETTINGS
    sizes[0] = 1
    for tile in range(8):
        sizes[16 + 2 * tile], sizes[48 + tile] = LINE, SIDE
    emit.build.store(ir.Constant(vector(BYTE, SETTINGS), sizes), place)
    return emit.build.bitcast(place, BYTES)


def _sorting(module: ir.Module) -> Any:
    """``sort(rows, count, inputs, sorted)``: for each 16 rows, for each step, a tile whose lines hold two numbers of
    each row. Behind the last row the last is repeated."""
    emit = Emitter(module, "sort", [BYTES, LONG, LONG, BYTES])
    build = emit.build
    rows, count, inputs, to = emit.arguments
    last, wide = build.sub(count, long(1)), build.mul(inputs, long(2))
    place = emit.variable(to)
    with emit.loop(count, step=SIDE) as first:
        starts = []
        for i in range(SIDE):
            row = build.add(first, long(i))
            row = build.select(build.icmp_signed("<", row, last), row, last)
            starts.append(build.gep(rows, [build.mul(row, wide)]))
        with emit.loop(wide, step=LINE) as offset:
            lines = [emit.load(start, offset, vector(INT, SIDE)) for start in starts]
            now = build.load(place)
            for i, line in enumerate(transposed(emit, lines)):
                emit.store(line, now, LINE * i)
            build.store(build.gep(now, [long(TILE)]), place)
    build.ret_void()
    return emit.function


def _block(module: ir.Module, high: int, wide: int) -> Any:
    """``block(x, w, bias, out, width, inputs, rows)``: tiles of outputs by tiles of rows, of which so many are left."""
    emit = Emitter(module, f"block{high}x{wide}", [BYTES] * 4 + [LONG] * 3)
    build, numbers = emit.build, Numbers(emit, True, SIDE)
    x, w, bias, out, width, inputs, rows = emit.arguments
    line, all_lines = build.mul(inputs, long(2)), build.mul(inputs, long(2 * SIDE))
    sums = [[_tile(2 * i + j) for j in range(wide)] for i in range(high)]
    weights, given = [_tile(4 + i) for i in range(high)], [_tile(6 + j) for j in range(wide)]
    for number in (number for own in sums for number in own):
        emit.call("llvm.x86.tilezero", VOID, number)
    with emit.loop(line, step=LINE) as offset:
        tile = build.mul(offset, long(SIDE))
        for j in range(wide):
            start = build.gep(x, [build.add(tile, build.mul(all_lines, long(j)))])
            emit.call("llvm.x86.tileloadd64", VOID, given[j], start, long(LINE))
        for i in range(high):
            start = build.gep(w, [build.add(offset, build.mul(all_lines, long(i)))])
            emit.call("llvm.x86.tileloadd64", VOID, weights[i], start, line)
            for j in range(wide):
                emit.call("llvm.x86.tdpbf16ps", VOID, sums[i][j], weights[i], given[j])
    room = build.alloca(ir.ArrayType(vector(INT, SIDE), SIDE))
    room.align = LINE
    room = build.bitcast(room, BYTES)
    some = build.icmp_unsigned("!=", build.ptrtoint(bias, LONG), long(0))
    for i in range(high):
        added = emit.variable(splat(FLOAT, SIDE, 0.0))
        with build.if_then(some):
            build.store(numbers.read(bias, 2 * SIDE * i), added)
        for j in range(wide):
            emit.call("llvm.x86.tilestored64", VOID, sums[i][j], room, long(LINE))
            found = transposed(emit, [emit.load(room, LINE * k, vector(FLOAT, SIDE)) for k in range(SIDE)])
            for k, own in enumerate(found):
                row = long(SIDE * j + k)
                with build.if_then(build.icmp_signed("<", row, rows)):
                    place = build.mul(build.add(build.mul(row, width), long(SIDE * i)), long(2))
                    numbers.write(build.fadd(own, build.load(added)), out, place)
    build.ret_void()
    return emit.function


def _worker(module: ir.Module, blocks: dict[tuple[int, int], Any]) -> Any:
    emit = Emitter(module, "worker", [BYTES])
    build = emit.build
    before = build.bitcast(build.alloca(vector(BYTE, SETTINGS)), BYTES)
    emit.call("llvm.x86.sttilecfg", VOID, before)
    emit.call("llvm.x86.ldtilecfg", VOID, _settings(emit))
    (static, x, out, count), taken = job_of(emit, JOB)
    facts = [emit.load(static, 8 * index, LONG) for index in range(4)]
    w, bias = build.inttoptr(facts[WEIGHT], BYTES), build.inttoptr(facts[BIAS], BYTES)
    width, inputs = facts[OUT], facts[IN]
    none = build.icmp_unsigned("==", facts[BIAS], long(0))
    with pieces(emit, taken, width, CHUNK) as (first, last):
        at = emit.variable(first)
        for high in SIZES:
            with emit.loop(build.sdiv(build.sub(last, build.load(at)), long(high * SIDE))):
                column = build.load(at)
                own_w = build.gep(w, [build.mul(column, build.mul(inputs, long(2)))])
                own_bias = build.select(none, bias, build.gep(bias, [build.mul(column, long(2))]))
                done = emit.variable(long(0))
                build.store(long(0), done)
                for wide in SIZES:
                    _rows(emit, blocks[high, wide], wide, done, count, (x, own_w, own_bias, out, column, width, inputs))
                build.store(build.add(column, long(high * SIDE)), at)
    emit.call("llvm.x86.ldtilecfg", VOID, before)  # what others in this thread have set up
    build.ret_void()
    return emit.function


def _rows(emit: Emitter, block: Any, wide: int, done: Any, count: Any, facts: Sequence[Any]) -> None:
    """All rows, ``wide`` tiles of them at once as long as there are more than fewer tiles hold."""
    build = emit.build
    x, w, bias, out, column, width, inputs = facts
    fewer = (wide - 1) * SIDE
    left = build.sub(count, build.load(done))
    times = build.sdiv(build.add(build.sub(left, long(fewer + 1)), long(wide * SIDE)), long(wide * SIDE))
    with emit.loop(times):
        row = build.load(done)
        own_x = build.gep(x, [build.mul(row, build.mul(inputs, long(2)))])
        place = build.mul(build.add(build.mul(row, width), column), long(2))
        build.call(block, [own_x, w, bias, build.gep(out, [place]), width, inputs, build.sub(count, row)])
        build.store(build.add(row, long(wide * SIDE)), done)


def _entry(module: ir.Module, name: str, sort: Any, worker: Any) -> None:
    emit = Emitter(module, name, [BYTES, BYTES, LONG, BYTES, INT], shared=True)
    build = emit.build
    static, rows, count, out, threads = emit.arguments
    inputs, outputs = emit.load(static, 8 * IN, LONG), emit.load(static, 8 * OUT, LONG)
    whole = build.and_(build.add(count, long(SIDE - 1)), long(-SIDE))
    scratch = emit.call("malloc", BYTES, build.add(build.mul(build.mul(inputs, whole), long(2)), long(LINE)))
    lines = build.and_(build.add(build.ptrtoint(scratch, LONG), long(LINE - 1)), long(-LINE))
    given = build.inttoptr(lines, BYTES)
    build.call(sort, [rows, count, inputs, given])
    products = build.mul(build.mul(outputs, inputs), count)
    run_by_all(emit, worker, (static, given, out, count), threads, products)
    emit.call("free", VOID, scratch)
    build.ret_void()
