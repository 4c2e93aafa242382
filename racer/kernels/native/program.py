"""Many functions called one after the other, at once: arguments lie in lists, some of which are filled in first."""

from __future__ import annotations

import ctypes
from functools import cache

from llvmlite import ir

from racer.kernels.native.assembling import Function, assembled
from racer.kernels.native.emitting import BYTES, LONG, VOID, Emitter, long

CALL, FILL = 2, 4
"""Numbers of 8 bytes: of a call, the function's ``by_list`` and the address of its list; of what is filled in before
the first, the address of an argument, the register that it depends on, a factor and what is added."""


@cache
def running() -> Function:
    """``run(calls, count, fills, count, registers)``."""
    name = "run_program"

    def write() -> ir.Module:
        module = ir.Module()
        emit = Emitter(module, name, [BYTES, LONG, BYTES, LONG, BYTES], shared=True)
        build = emit.build
        calls, count, fills, filled, registers = emit.arguments
        with emit.loop(filled) as index:
            fill = build.gep(fills, [build.mul(index, long(8 * FILL))])
            place, register, factor, more = (emit.load(fill, 8 * i, LONG) for i in range(FILL))
            value = emit.load(registers, build.mul(register, long(8)), LONG)
            value = build.add(build.mul(value, factor), more)
            emit.store(value, build.inttoptr(place, BYTES), 0)
        kind = ir.FunctionType(VOID, [BYTES]).as_pointer()
        with emit.loop(count) as index:
            call = build.gep(calls, [build.mul(index, long(8 * CALL))])
            function = build.inttoptr(emit.load(call, 0, LONG), kind)
            build.call(function, [build.inttoptr(emit.load(call, 8, LONG), BYTES)])
        build.ret_void()
        return module

    address, number = ctypes.c_void_p, ctypes.c_int64
    return assembled(name, (address, number, address, number, address), write)
