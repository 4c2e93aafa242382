"""Tells the processor that a line of an array will be read soon."""

from __future__ import annotations

from typing import Any

import numba
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

CACHE_LINE = 64
"""Bytes that come at once."""


def _prefetch(context: Any, array: Any, index: Any) -> Any:
    """What numba makes of ``prefetch(array, index)``."""

    def generate(target: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind, _ = signature.args
        whole, zero = target.make_array(kind)(target, builder, arguments[0]), ir.Constant(ir.IntType(64), 0)
        place = cgutils.get_item_pointer(target, builder, kind, whole, [arguments[1], zero][: kind.ndim])
        first = builder.bitcast(place, ir.IntType(8).as_pointer())
        number = ir.IntType(32)
        instruction = builder.module.declare_intrinsic(
            "llvm.prefetch", (first.type,), ir.FunctionType(ir.VoidType(), [first.type, number, number, number])
        )
        for offset in (0, CACHE_LINE):
            line = builder.gep(first, [ir.Constant(number, offset)])
            flags = (ir.Constant(number, part) for part in (0, 3, 1))  # for reading; keep it; data
            builder.call(instruction, [line, *flags])
        return target.get_dummy_value()

    return types.void(array, types.int64), generate


def _nothing(array: Any, index: Any) -> None:
    """Without machine code there is nothing to prefetch for."""


prefetch = _nothing if numba.config.DISABLE_JIT else intrinsic(_prefetch)
"""``prefetch(array, index)``: let 128 bytes from ``array[index]`` on (1 or 2 dimensions, C order) come into the cache,
without waiting for them."""
