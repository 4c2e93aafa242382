"""How numbers are kept in few bits, and what rows become to be multiplied with them."""

from __future__ import annotations

from typing import Any

import attrs
from llvmlite import ir

from racer.kernels.native.emitting import BYTE, BYTES, FLOAT, INT, LONG, Emitter, long, splat, vector

LANES = 16
"""Outputs that are found together."""
UNIT = 32
"""Numbers of a row whose packed weights lie together."""
FULL = 127 * 128
"""The largest whole number of a row."""


@attrs.frozen
class Format:
    """How weights are kept: ``scale * (number - offset) + least``."""

    bits: int
    """4, 5, 6 or 8 of each number, which is at least 0."""
    group: int
    """Numbers that share a scale: 16 or 32."""
    offset: int
    """What is taken off each number."""
    least: bool
    """Whether each group has a least number that is added."""
    halves: bool
    """Whether scales are float16; else float32."""

    @property
    def groups(self) -> int:
        """In a unit."""
        return UNIT // self.group

    @property
    def scale_bytes(self) -> int:
        return 2 if self.halves else 4

    @property
    def unit_bytes(self) -> int:
        """Of the numbers of one unit of a block."""
        return LANES * UNIT * self.bits // 8

    @property
    def scales_bytes(self) -> int:
        """Of the scales (and least numbers) of one unit of a block."""
        return LANES * self.groups * self.scale_bytes * (2 if self.least else 1)


def quantise(module: ir.Module, kept: Format) -> Any:
    """Rows into whole numbers: ``rows, count of units (of all rows), bytes, facts``."""
    emit = Emitter(module, "quantise", [BYTES, LONG, BYTES, BYTES])
    build = emit.build
    rows, units, bytes_, facts = emit.arguments
    lanes, per = 16, kept.group // 16
    floats, ints = vector(FLOAT, lanes), vector(INT, lanes)
    with emit.loop(units) as unit:
        for group in range(kept.groups):
            start = build.add(build.mul(unit, long(4 * UNIT)), long(4 * kept.group * group))
            numbers = [emit.load(rows, build.add(start, long(64 * i)), floats) for i in range(per)]
            sizes = [emit.unary("llvm.fabs", number) for number in numbers]
            largest = sizes[0] if per == 1 else emit.binary("llvm.maxnum", *sizes)
            most = emit.reduced("fmax", largest)
            gone = [build.fsub(number, number) for number in numbers]  # 0; of infinities and what is no number: none
            none = emit.reduced("fadd", gone[0] if per == 1 else build.fadd(*gone))
            none = build.fcmp_unordered("uno", none, none)
            up = build.fdiv(ir.Constant(FLOAT, float(FULL)), most)
            usual = build.fcmp_ordered(">", most, ir.Constant(FLOAT, 1e-30))
            up = build.select(usual, up, ir.Constant(FLOAT, 0.0))
            size = build.fmul(most, ir.Constant(FLOAT, 1.0 / FULL))
            size = build.select(none, ir.Constant(FLOAT, float("nan")), size)
            whole: Any = splat(INT, lanes, 0)
            place = build.add(build.mul(unit, long(2 * UNIT)), long(kept.group * group))
            for i, number in enumerate(numbers):
                near = emit.unary("llvm.rint", build.fmul(number, emit.spread(up, lanes)))
                finite = build.fcmp_ordered("ord", near, near)
                number_ = build.fptosi(build.select(finite, near, splat(FLOAT, lanes, 0.0)), ints)
                whole = build.add(whole, number_)
                high = build.ashr(build.add(number_, splat(INT, lanes, 64)), splat(INT, lanes, 7))
                low = build.sub(number_, build.shl(high, splat(INT, lanes, 7)))
                for part, half in enumerate((high, low)):
                    at = build.add(place, long(UNIT * part + 16 * i))
                    emit.store(build.trunc(half, vector(BYTE, lanes)), bytes_, at)
            total = emit.reduced("add", whole)
            fact = build.add(build.mul(unit, long(8 * kept.groups)), long(8 * group))
            emit.store(size, facts, fact)
            second: Any
            if kept.least:
                second = build.fmul(build.sitofp(total, FLOAT), size)
            else:
                second = build.mul(total, ir.Constant(INT, kept.offset))
            emit.store(second, facts, build.add(fact, long(4)))
    build.ret_void()
    return emit.function
