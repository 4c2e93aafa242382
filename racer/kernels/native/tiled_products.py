"""Rows times a weight in bf16 as it lies, ``[out, in]``, in the processor's tiles, summed in float32.

The weight's lines are loaded as they lie; it is the rows, much fewer, that are sorted into columns first. So a weight
is read once, at the rate of the memory, for hundreds of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from llvmlite import ir

from racer.kernels.native.assembling import Function, NotHere, assembled
from racer.kernels.native.dense import BIAS, IN, JOB, OUT, WEIGHT
from racer.kernels.native.emitting import (
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
from racer.kernels.native.tiles import (
    LINE,
    SIDE,
    STEP,
    TILE,
    aligned,
    all_tiles,
    empty,
    fill,
    least,
    multiply,
    need_tiles,
    sort_columns,
    zero,
)

SIZES = (2, 1)
"""Tiles of outputs, and of rows, that are found together: with those of their sums there are eight, which is all."""
CHUNK = 8 * SIDE
"""Outputs that a thread takes at once: some lines that lie one behind the other. To ask for the next ones beforehand
takes as long as it gains."""
WHOLE = {"outputs": SIDE, "inputs": STEP}
"""What a weight's sizes must be multiples of."""


@cache
def tile_product() -> Function:
    """As :func:`racer.kernels.native.dense.dense_product` in bf16; any number of rows, and sizes as in :data:`WHOLE`.

    :raises NotHere: there is none.
    """
    need_tiles()
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


def _sorting(module: ir.Module) -> Any:
    """``sort(rows, count, inputs, sorted)``: 16 rows at a time; behind the last row the last is repeated."""
    emit = Emitter(module, "sort", [BYTES, LONG, LONG, BYTES])
    build = emit.build
    rows, count, inputs, to = emit.arguments
    last, wide = build.sub(count, long(1)), build.mul(inputs, long(2))
    place = emit.variable(to)
    with emit.loop(count, step=SIDE) as first:
        near = [least(emit, build.add(first, long(i)), last) for i in range(SIDE)]
        starts = [build.gep(rows, [build.mul(row, wide)]) for row in near]
        build.store(sort_columns(emit, starts, wide, build.load(place)), place)
    build.ret_void()
    return emit.function


def _block(module: ir.Module, high: int, wide: int) -> Any:
    """``block(x, w, bias, out, width, inputs, rows)``: tiles of outputs by tiles of rows, of which so many are left."""
    emit = Emitter(module, f"block{high}x{wide}", [BYTES] * 4 + [LONG] * 3)
    build = emit.build
    x, w, bias, out, width, inputs, rows = emit.arguments
    line, all_lines = build.mul(inputs, long(2)), build.mul(inputs, long(2 * SIDE))
    sums = [[2 * i + j for j in range(wide)] for i in range(high)]
    weights, given = [4 + i for i in range(high)], [6 + j for j in range(wide)]
    for tile in (tile for own in sums for tile in own):
        zero(emit, tile)
    with emit.loop(line, step=LINE) as offset:
        tile = build.mul(offset, long(SIDE))
        for j in range(wide):
            fill(emit, given[j], build.gep(x, [build.add(tile, build.mul(all_lines, long(j)))]), LINE)
        for i in range(high):
            fill(emit, weights[i], build.gep(w, [build.add(offset, build.mul(all_lines, long(i)))]), line)
            for j in range(wide):
                multiply(emit, sums[i][j], weights[i], given[j])
    room = build.alloca(ir.ArrayType(vector(INT, SIDE), SIDE + 1))
    room.align = LINE
    room = build.bitcast(room, BYTES)
    added = build.gep(room, [long(TILE)])
    some = build.icmp_unsigned("!=", build.ptrtoint(bias, LONG), long(0))
    for i in range(high):
        emit.store(splat(FLOAT, SIDE, 0.0), added, 0)
        with build.if_then(some):
            emit.store(Numbers(emit, True, SIDE).read(bias, 2 * SIDE * i), added, 0)
        for j in range(wide):
            empty(emit, sums[i][j], room, LINE)
            for k, own in enumerate(_rows_of(emit, room, added)):
                row = long(SIDE * j + k)
                with build.if_then(build.icmp_signed("<", row, rows)):
                    emit.store(own, out, build.mul(build.add(build.mul(row, width), long(SIDE * i)), long(2)))
    build.ret_void()
    return emit.function


def _rows_of(emit: Emitter, room: Any, added: Any) -> list[Any]:
    """Each row's 16 outputs in bf16, of a tile that has outputs in its lines; two lines become one before the turn."""
    build, numbers, half = emit.build, Numbers(emit, True, SIDE), SIDE // 2
    pairs = []
    for pair in range(half):
        lines = (emit.load(room, LINE * line, vector(FLOAT, SIDE)) for line in (2 * pair, 2 * pair + 1))
        biases = (emit.spread(emit.load(added, 4 * line, FLOAT), SIDE) for line in (2 * pair, 2 * pair + 1))
        low, high = (numbers.near(build.fadd(line, bias)) for line, bias in zip(lines, biases, strict=True))
        low = build.lshr(low, splat(INT, SIDE, 16))
        pairs.append(build.or_(low, build.and_(high, splat(INT, SIDE, 0xFFFF0000))))
    turned = transposed(emit, pairs)
    parts = [ir.Constant(vector(INT, half), [half * part + lane for lane in range(half)]) for part in range(2)]
    return [build.shuffle_vector(line, line, part) for part in parts for line in turned]


def _worker(module: ir.Module, blocks: dict[tuple[int, int], Any]) -> Any:
    emit = Emitter(module, "worker", [BYTES])
    build = emit.build
    with all_tiles(emit):
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
                    _all_rows(emit, blocks, high, count, (x, own_w, own_bias, out, column, width, inputs))
                    build.store(build.add(column, long(high * SIDE)), at)
    build.ret_void()
    return emit.function


def _all_rows(emit: Emitter, blocks: dict[tuple[int, int], Any], high: int, count: Any, facts: Sequence[Any]) -> None:
    """As many tiles of rows at once as there are rows for."""
    build = emit.build
    x, w, bias, out, column, width, inputs = facts
    done = emit.variable(long(0))
    for wide in SIZES:
        fewer, size = (wide - 1) * SIDE, wide * SIDE
        left = build.sub(count, build.load(done))
        times = build.sdiv(build.add(build.sub(left, long(fewer + 1)), long(size)), long(size))
        with emit.loop(times):
            row = build.load(done)
            own_x = build.gep(x, [build.mul(row, build.mul(inputs, long(2)))])
            place = build.mul(build.add(build.mul(row, width), column), long(2))
            rest = build.sub(count, row)
            build.call(blocks[high, wide], [own_x, w, bias, build.gep(out, [place]), width, inputs, rest])
            build.store(build.add(row, long(size)), done)


def _entry(module: ir.Module, name: str, sort: Any, worker: Any) -> None:
    emit = Emitter(module, name, [BYTES, BYTES, LONG, BYTES, INT], shared=True)
    build = emit.build
    static, rows, count, out, threads = emit.arguments
    inputs, outputs = emit.load(static, 8 * IN, LONG), emit.load(static, 8 * OUT, LONG)
    whole = build.and_(build.add(count, long(SIDE - 1)), long(-SIDE))
    scratch = emit.call("malloc", BYTES, build.add(build.mul(build.mul(inputs, whole), long(2)), long(LINE)))
    given = aligned(emit, scratch)
    build.call(sort, [rows, count, inputs, given])
    products = build.mul(build.mul(outputs, inputs), count)
    run_by_all(emit, worker, (static, given, out, count), threads, products)
    emit.call("free", VOID, scratch)
    build.ret_void()
