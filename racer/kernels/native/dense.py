"""Rows times a weight in bf16 or float32 as it lies, ``[out, in]``, summed in float32: nothing is sorted or copied.

A weight is read once, at the rate of the memory, for up to some dozen rows; torch's own products of so few rows read it
more slowly, or sort it first.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from llvmlite import ir

from racer.kernels.native.assembling import Function, assembled
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
    vector,
)
from racer.kernels.native.team import PRODUCT, job_of, pieces, run_by_all

LANES = 16
"""Numbers of a row that are multiplied together."""
WIDE = 4
"""Outputs that are found together ..."""
TILES = (6, 4, 2, 1)
"""... for so many rows."""
CHUNK = 32
"""Outputs that a thread takes at once."""

WEIGHT, BIAS, OUT, IN = range(4)
"""Static facts: addresses of weight and bias (or 0), outputs, inputs."""
JOB = (BYTES, BYTES, BYTES, LONG)
"""Static facts, rows in float32, the result, rows."""


@cache
def dense_product(bf16: bool) -> Function:
    """``product(static, rows, count, result, threads)``; addresses; rows, weight, bias and result of one dtype.

    :raises NotHere: there is none.
    """
    name = f"dense_{'bf16' if bf16 else 'f32'}"

    def write() -> ir.Module:
        module = ir.Module()
        tiles = {(wide, rows): _Tile(module, bf16, wide, rows).function for rows in TILES for wide in (WIDE, 1)}
        _entry(module, name, bf16, _worker(module, bf16, tiles))
        return module

    return assembled(name, PRODUCT, write)


class _Tile(Emitter):
    """A few outputs of a few rows."""

    def __init__(self, module: ir.Module, bf16: bool, wide: int, rows: int) -> None:
        super().__init__(module, f"tile{wide}x{rows}", [BYTES] * 4 + [LONG] * 2)
        x, w, bias, out, width, inputs = self.arguments
        build, numbers = self.build, Numbers(self, bf16, LANES)
        one, size = Numbers(self, bf16, 1), numbers.size
        totals = [[self.variable(splat(FLOAT, LANES, 0.0)) for _ in range(rows)] for _ in range(wide)]
        w_rows = [build.gep(w, [build.mul(inputs, long(size * i))]) for i in range(wide)]
        x_rows = [build.gep(x, [build.mul(inputs, long(4 * i))]) for i in range(rows)]
        with self.loop(inputs, step=LANES) as start:
            offset = build.mul(start, long(size))
            weights = [numbers.read(row, offset) for row in w_rows]
            if bf16:  # the next outputs' weights; in float32 it takes longer with than without
                for row in w_rows:
                    self._prefetch(build.gep(row, [build.add(offset, build.mul(inputs, long(wide * size)))]))
            for j, row in enumerate(x_rows):
                own = self.load(row, build.mul(start, long(4)), vector(FLOAT, LANES))
                for i, weight in enumerate(weights):
                    build.store(self.fma(weight, own, build.load(totals[i][j])), totals[i][j])
        given = build.icmp_unsigned("!=", build.ptrtoint(bias, LONG), long(0))
        for i in range(wide):
            added = self.variable(splat(FLOAT, 1, 0.0))
            with build.if_then(given):
                build.store(one.read(bias, size * i), added)
            for j in range(rows):
                total = self.spread(self.reduced("fadd", build.load(totals[i][j])), 1)
                place = build.add(build.mul(width, long(size * j)), long(size * i))
                one.write(build.fadd(total, build.load(added)), out, place)
        build.ret_void()

    def _prefetch(self, place: Any) -> None:
        """Of the next outputs' weights."""
        read, near, data = (ir.Constant(INT, number) for number in (0, 3, 1))
        self.call("llvm.prefetch.p0", VOID, place, read, near, data)


def _worker(module: ir.Module, bf16: bool, tiles: dict[tuple[int, int], Any]) -> Any:
    emit = Emitter(module, "worker", [BYTES])
    build, size = emit.build, 2 if bf16 else 4
    (static, x, out, count), taken = job_of(emit, JOB)
    facts = [emit.load(static, 8 * index, LONG) for index in range(4)]
    w, bias = build.inttoptr(facts[WEIGHT], BYTES), build.inttoptr(facts[BIAS], BYTES)
    width, inputs = facts[OUT], facts[IN]
    none = build.icmp_unsigned("==", facts[BIAS], long(0))
    with pieces(emit, taken, width, CHUNK) as (first, last):
        at = emit.variable(first)
        for wide in (WIDE, 1):
            left = build.sub(last, build.load(at))
            with emit.loop(build.sdiv(left, long(wide))):
                column = build.load(at)
                own_w = build.gep(w, [build.mul(column, build.mul(inputs, long(size)))])
                own_bias = build.select(none, bias, build.gep(bias, [build.mul(column, long(size))]))
                done = emit.variable(long(0))
                build.store(long(0), done)
                for rows in TILES:
                    with emit.loop(build.sdiv(build.sub(count, build.load(done)), long(rows))):
                        row = build.load(done)
                        own_x = build.gep(x, [build.mul(row, build.mul(inputs, long(4)))])
                        place = build.mul(build.add(build.mul(row, width), column), long(size))
                        build.call(tiles[wide, rows], [own_x, own_w, own_bias, build.gep(out, [place]), width, inputs])
                        build.store(build.add(row, long(rows)), done)
                build.store(build.add(column, long(wide)), at)
    build.ret_void()
    return emit.function


def _entry(module: ir.Module, name: str, bf16: bool, worker: Any) -> None:
    emit = Emitter(module, name, [BYTES, BYTES, LONG, BYTES, INT], shared=True)
    build = emit.build
    static, rows, count, out, threads = emit.arguments
    scratch = rows
    if bf16:
        numbers = build.mul(emit.load(static, 8 * IN, LONG), count)
        scratch = emit.call("malloc", BYTES, build.mul(numbers, long(4)))
        with emit.loop(numbers, step=LANES) as start:
            emit.store(Numbers(emit, bf16).read(rows, build.mul(start, long(2))), scratch, build.mul(start, long(4)))
    outputs = emit.load(static, 8 * OUT, LONG)
    products = build.mul(build.mul(outputs, emit.load(static, 8 * IN, LONG)), count)
    run_by_all(emit, worker, (static, scratch, out, count), threads, products)
    if bf16:
        emit.call("free", VOID, scratch)
    build.ret_void()
