"""Rows times weights in few bits, multiplied as they are kept: whole numbers, with a scale for each group of 16 or 32.

The rows become whole numbers too: each group of a row is divided by its largest number and takes 16 bits, in two bytes
that are multiplied apart (a processor's dot products are of bytes) and added exactly. So a product errs by less than
2**-14 of the largest number of a group, sixteen times less than bf16 rounds; and what a row gives does not depend on
the rows beside it, to the last bit.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from llvmlite import ir

from racer.kernels.native.assembling import Function, NotHere, assembled, host_has
from racer.kernels.native.emitting import (  # fmt: skip
    BYTES,
    FLOAT,
    HALF,
    INT,
    LONG,
    VOID,
    Emitter,
    long,
    splat,
    vector,
)
from racer.kernels.native.few_bits import LANES, UNIT, Format, quantise
from racer.kernels.native.team import PRODUCT, job_of, pieces, run_by_all

QUADS = UNIT // 4
TILES = (8, 4, 2, 1)
"""Rows that are multiplied together."""
TOGETHER = 4
"""Rows whose sums are made in turns."""
CHUNK = 4
"""Blocks of outputs that a thread takes at once."""


def available() -> bool:
    """Whether this processor has the dot products of bytes."""
    return host_has("avx512vnni", "avx512vl", "avx512bw")


# Static facts of a weight, as the code reads them: numbers of 8 bytes.
WEIGHT, SCALES, BIAS, BLOCKS, UNITS, WIDTH = range(6)
"""Addresses of numbers, scales and bias (or 0), blocks of outputs, units of a row, outputs of a row in the result."""
JOB = (BYTES, BYTES, BYTES, BYTES, LONG)
"""Static facts, whole rows, their scales, the result, rows."""


@cache
def packed_product(kept: Format) -> Function:
    """``product(static, rows, count, result, threads)``; addresses, of float32 rows and results without gaps.

    :raises NotHere: there is none.
    """
    if not available():
        raise NotHere("the processor has no dot products of bytes (AVX-512 VNNI)")
    if kept.offset and kept.least:  # the code keeps one number of a row's group for either
        raise NotHere("what is taken off and a least number that is added")
    name = f"packed_{kept.bits}_{kept.group}_{kept.offset}_{int(kept.least)}{int(kept.halves)}"

    def write() -> ir.Module:
        module = ir.Module()
        tiles = {rows: _Tile(module, kept, rows).function for rows in TILES}
        _entry(module, name, kept, quantise(module, kept), _worker(module, kept, tiles))
        return module

    return assembled(name, PRODUCT, write)


class _Tile(Emitter):
    """One block of outputs for a few rows."""

    def __init__(self, module: ir.Module, kept: Format, rows: int) -> None:
        super().__init__(module, f"tile{rows}", [BYTES] * 6 + [LONG] * 4)
        self.kept = kept
        x, xs, w, s, bias, out, units, x_stride, xs_stride, out_stride = self.arguments
        build = self.build
        none = build.icmp_unsigned("==", build.ptrtoint(bias, LONG), long(0))
        first = self.variable(splat(FLOAT, LANES, 0.0))
        with build.if_then(build.not_(none)):
            build.store(self.load(bias, 0, vector(FLOAT, LANES)), first)
        totals = [self.variable(build.load(first)) for _ in range(rows)]
        row_x = [build.gep(x, [build.mul(x_stride, long(row))]) for row in range(rows)]
        row_xs = [build.gep(xs, [build.mul(xs_stride, long(row))]) for row in range(rows)]
        with self.loop(units) as unit:
            weights = self._weights(build.gep(w, [build.mul(unit, long(kept.unit_bytes))]))
            scales = build.gep(s, [build.mul(unit, long(kept.scales_bytes))])
            for group in range(kept.groups):
                quads = QUADS // kept.groups
                own = range(group * quads, (group + 1) * quads)
                scale, least = self._scale(scales, group), None
                if kept.least:
                    least = self._scale(scales, kept.groups + group)
                for some in (range(start, min(start + TOGETHER, rows)) for start in range(0, rows, TOGETHER)):
                    places = [build.gep(row_x[row], [build.mul(unit, long(2 * UNIT))]) for row in some]
                    products = self._dots(places, [weights[quad] for quad in own], own)
                    for row, product in zip(some, products, strict=True):
                        facts = build.gep(row_xs[row], [build.mul(unit, long(8 * kept.groups))])
                        if kept.offset:
                            taken = self.spread(self.load(facts, 8 * group + 4, INT), LANES)
                            product = build.sub(product, taken)
                        exact = build.sitofp(product, vector(FLOAT, LANES))
                        size = self.spread(self.load(facts, 8 * group, FLOAT), LANES)
                        total = self.fma(exact, build.fmul(scale, size), build.load(totals[row]))
                        if least is not None:
                            whole = self.spread(self.load(facts, 8 * group + 4, FLOAT), LANES)
                            total = self.fma(least, whole, total)
                        build.store(total, totals[row])
        for row in range(rows):
            self.store(build.load(totals[row]), out, build.mul(out_stride, long(row)))
        build.ret_void()

    def _weights(self, place: Any) -> list[Any]:
        """The eight vectors of a unit: in every lane, four numbers in bytes."""
        build, ints = self.build, vector(INT, LANES)
        bits = self.kept.bits
        if bits == 8:
            return [self.load(place, 64 * quad, ints) for quad in range(QUADS)]
        low = [self.load(place, 64 * quad, ints) for quad in range(QUADS // 2)]
        nibbles = splat(INT, LANES, 0x0F0F0F0F)
        weights = [build.and_(half, nibbles) for half in low]
        weights += [build.and_(build.lshr(half, splat(INT, LANES, 4)), nibbles) for half in low]
        if bits == 4:
            return weights
        extra = bits - 4
        mask = splat(INT, LANES, 0x10101010 if extra == 1 else 0x30303030)
        per = 8 // extra
        for quad in range(QUADS):
            high = self.load(place, 256 + 64 * (quad // per), ints)
            shift = (quad % per) * extra - 4
            moved = (
                build.lshr(high, splat(INT, LANES, shift)) if shift >= 0 else build.shl(high, splat(INT, LANES, -shift))
            )
            weights[quad] = build.or_(weights[quad], build.and_(moved, mask))
        return weights

    def _scale(self, place: Any, at: int) -> Any:
        kind = HALF if self.kept.halves else FLOAT
        loaded = self.load(place, LANES * self.kept.scale_bytes * at, vector(kind, LANES))
        return self.build.fpext(loaded, vector(FLOAT, LANES)) if self.kept.halves else loaded

    def _dots(self, rows: list[Any], weights: list[Any], quads: range) -> list[Any]:
        """Of some rows' numbers with the weights. In turns, as each sum waits for its last: so none waits long."""
        build, ints = self.build, vector(INT, LANES)
        totals: list[list[Any]] = [[splat(INT, LANES, 0)] * len(rows) for _ in range(2)]
        for weight, quad in zip(weights, quads, strict=True):
            for part, sums in enumerate(totals):
                for i, row in enumerate(rows):
                    four = self.spread(self.load(row, UNIT * part + 4 * quad, INT), LANES)
                    sums[i] = self.call("llvm.x86.avx512.vpdpbusd.512", ints, sums[i], weight, four)
        high, low = totals
        return [build.add(build.shl(left, splat(INT, LANES, 7)), right) for left, right in zip(high, low, strict=True)]


def _worker(module: ir.Module, kept: Format, tiles: dict[int, Any]) -> Any:
    """What each thread does: take blocks of outputs until there are none left."""
    emit = Emitter(module, "worker", [BYTES])
    build = emit.build
    (static, x, xs, out, count), taken = job_of(emit, JOB)
    facts = [emit.load(static, 8 * index, LONG) for index in range(6)]
    w, s, bias = (build.inttoptr(facts[index], BYTES) for index in (WEIGHT, SCALES, BIAS))
    blocks, units, width = facts[BLOCKS], facts[UNITS], facts[WIDTH]
    x_stride, xs_stride = build.mul(units, long(2 * UNIT)), build.mul(units, long(8 * kept.groups))
    out_stride = build.mul(width, long(4))
    with pieces(emit, taken, blocks, CHUNK) as (first, last), emit.loop(last, start=first) as block:
        own_w = build.gep(w, [build.mul(block, build.mul(units, long(kept.unit_bytes)))])
        own_s = build.gep(s, [build.mul(block, build.mul(units, long(kept.scales_bytes)))])
        none = build.icmp_unsigned("==", facts[BIAS], long(0))
        moved = build.gep(bias, [build.mul(block, long(4 * LANES))])
        own_bias = build.select(none, bias, moved)
        column = build.gep(out, [build.mul(block, long(4 * LANES))])
        done = emit.variable(long(0))
        for rows in TILES:
            left = build.sub(count, build.load(done))
            with emit.loop(build.sdiv(left, long(rows))):
                row = build.load(done)
                build.call(
                    tiles[rows],
                    [
                        build.gep(x, [build.mul(row, x_stride)]), build.gep(xs, [build.mul(row, xs_stride)]),
                        own_w, own_s, own_bias, build.gep(column, [build.mul(row, out_stride)]),
                        units, x_stride, xs_stride, out_stride,
                    ],
                )  # fmt: skip
                build.store(build.add(row, long(rows)), done)
    build.ret_void()
    return emit.function


def _entry(module: ir.Module, name: str, kept: Format, quantise: Any, worker: Any) -> None:
    emit = Emitter(module, name, [BYTES, BYTES, LONG, BYTES, INT], shared=True)
    build = emit.build
    static, rows, count, out, threads = emit.arguments
    units = build.mul(emit.load(static, 8 * UNITS, LONG), count)
    room = build.mul(units, long(2 * UNIT + 8 * kept.groups))
    scratch = emit.call("malloc", BYTES, room)
    facts = build.gep(scratch, [build.mul(units, long(2 * UNIT))])
    build.call(quantise, [rows, units, scratch, facts])
    outputs = emit.load(static, 8 * BLOCKS, LONG)
    run_by_all(
        emit,
        worker,
        (static, scratch, facts, out, count),
        threads,
        build.mul(build.mul(outputs, units), long(LANES * UNIT)),
    )
    emit.call("free", VOID, scratch)
    build.ret_void()
