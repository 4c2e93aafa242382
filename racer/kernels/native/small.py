"""The small operations around the products of a layer: norms, rotary positions, gates. Each is one pass over its rows.

They round where transformers' operations round, so that they give the same numbers up to the order of sums.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from llvmlite import ir

from racer.kernels.native.assembling import Function, assembled
from racer.kernels.native.emitting import BYTES, FLOAT, INT, LONG, Emitter, Numbers, exponential, long, splat, vector
from racer.kernels.native.team import job_of, pieces, run_by_all

LANES = 16
SOME_ROWS, SOME_NUMBERS = 16, 1 << 13
"""Of which a thread takes so many at once."""
ADDRESS, COUNT, NUMBER, THREADS = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, ctypes.c_int32


def _dtype(bf16: bool) -> str:
    return "bf16" if bf16 else "f32"


def _in_pieces(
    module: ir.Module, name: str, kinds: Sequence[ir.Type], size: int, work: int, body: Callable[..., None]
) -> None:
    """``name(*arguments, threads)``: ``body(emit, arguments, first, last)`` for pieces of a total.

    :param kinds: of the arguments, of which the first ``LONG`` is the total.
    :param size: of a piece.
    :param work: what one of the total takes, in products of two numbers.
    """
    total = list(kinds).index(LONG)
    worker = Emitter(module, "worker", [BYTES])
    arguments, taken = job_of(worker, kinds)
    with pieces(worker, taken, arguments[total], size) as (first, last):
        body(worker, arguments, first, last)
    worker.build.ret_void()
    emit = Emitter(module, name, [*kinds, INT], shared=True)
    *arguments, threads = emit.arguments
    each: Any = long(work)
    for argument, kind in zip(arguments, kinds, strict=True):
        if kind == LONG:
            each = emit.build.mul(each, argument)
    run_by_all(emit, worker.function, arguments, threads, each)
    emit.build.ret_void()


@cache
def root_mean_square(bf16: bool, shifted: bool) -> Function:
    """``norm(rows, weight, result, count, width, eps, threads)``.

    Each row is divided by the root of its mean square, and multiplied by the weight.

    :param shifted: one is added to the weight, and nothing is rounded before the product (Gemma's way).
    """
    name = f"norm_{_dtype(bf16)}_{int(shifted)}"

    def body(emit: Emitter, arguments: Sequence[Any], first: Any, last: Any) -> None:
        build, numbers = emit.build, Numbers(emit, bf16)
        rows, weight, out, _, width, eps = arguments
        with emit.loop(last, start=first) as row:
            start = build.mul(build.mul(row, width), long(numbers.size))
            own, to = build.gep(rows, [start]), build.gep(out, [start])
            squares = emit.variable(splat(FLOAT, LANES, 0.0))
            with emit.loop(width, step=LANES) as at:
                some = numbers.read(own, build.mul(at, long(numbers.size)))
                build.store(emit.fma(some, some, build.load(squares)), squares)
            mean = build.fdiv(emit.reduced("fadd", build.load(squares)), build.sitofp(width, FLOAT))
            factor = build.fdiv(ir.Constant(FLOAT, 1.0), emit.unary("llvm.sqrt", build.fadd(mean, eps)))
            factor = emit.spread(factor, LANES)
            with emit.loop(width, step=LANES) as at:
                offset = build.mul(at, long(numbers.size))
                some = build.fmul(numbers.read(own, offset), factor)
                scale = numbers.read(weight, offset)
                if shifted:
                    scale = build.fadd(scale, splat(FLOAT, LANES, 1.0))
                else:
                    some = numbers.rounded(some)
                numbers.write(build.fmul(some, scale), to, offset)

    def write() -> ir.Module:
        module = ir.Module()
        _in_pieces(module, name, (BYTES, BYTES, BYTES, LONG, LONG, FLOAT), SOME_ROWS, 16, body)
        return module

    return assembled(name, (ADDRESS, ADDRESS, ADDRESS, COUNT, COUNT, NUMBER, THREADS), write)


@cache
def rotation(bf16: bool) -> Function:
    """``rotate(rows, cos, sin, result, batch, heads, nodes, size, by_batch, by_head, by_node, angles_by_batch)``.

    The result ``[B, N, H, D]`` without gaps; ``by_...`` are bytes from one to the next in rows, and in the angles.
    """
    name = f"rotate_{_dtype(bf16)}"

    def write() -> ir.Module:
        module = ir.Module()
        emit = Emitter(module, name, [BYTES] * 4 + [LONG] * 8, shared=True)
        build, numbers = emit.build, Numbers(emit, bf16)
        rows, cos, sin, out, batch, heads, nodes, size, by_batch, by_head, by_node, angles = emit.arguments
        bytes_ = build.mul(size, long(numbers.size))
        half = build.ashr(size, long(1))
        to = emit.variable(out)
        with emit.loop(batch) as b, emit.loop(nodes) as n, emit.loop(heads) as h:
            place = build.add(build.add(build.mul(b, by_batch), build.mul(h, by_head)), build.mul(n, by_node))
            own, result = build.gep(rows, [place]), build.load(to)
            turned = build.add(build.mul(b, angles), build.mul(n, bytes_))
            own_cos, own_sin = build.gep(cos, [turned]), build.gep(sin, [turned])
            with emit.loop(half, step=LANES) as at:
                low = build.mul(at, long(numbers.size))
                high = build.add(low, build.mul(half, long(numbers.size)))
                left, right = numbers.read(own, low), numbers.read(own, high)
                minus = build.fsub(splat(FLOAT, LANES, -0.0), right)
                for offset, some, other in ((low, left, minus), (high, right, left)):
                    straight = numbers.rounded(build.fmul(some, numbers.read(own_cos, offset)))
                    across = numbers.rounded(build.fmul(other, numbers.read(own_sin, offset)))
                    numbers.write(build.fadd(straight, across), result, offset)
            build.store(build.gep(result, [bytes_]), to)
        build.ret_void()
        return module

    return assembled(name, (ADDRESS,) * 4 + (COUNT,) * 8, write)


SILU, GELU_TANH = "silu", "gelu_tanh"


def _pairs(name: str, bf16: bool, work: int, combine: Callable[[Emitter, Numbers, Any, Any], Any]) -> Function:
    """``name(left, right, result, count, threads)``, number by number."""

    def body(emit: Emitter, arguments: Sequence[Any], first: Any, last: Any) -> None:
        numbers = Numbers(emit, bf16)
        left, right, out, _ = arguments
        with emit.loop(last, start=first, step=LANES) as at:
            offset = emit.build.mul(at, long(numbers.size))
            numbers.write(combine(emit, numbers, numbers.read(left, offset), numbers.read(right, offset)), out, offset)

    def write() -> ir.Module:
        module = ir.Module()
        _in_pieces(module, name, (BYTES, BYTES, BYTES, LONG), SOME_NUMBERS, work, body)
        return module

    return assembled(name, (ADDRESS, ADDRESS, ADDRESS, COUNT, THREADS), write)


@cache
def gate(bf16: bool, kind: str) -> Function:
    """``gate(gates, rows, result, count, threads)``: rows times what the gates let through.

    :param kind: :data:`SILU` or :data:`GELU_TANH` (Hendrycks and Gimpel, arXiv 1606.08415, by its tanh).
    """

    def let(emit: Emitter, numbers: Numbers, gates: Any, rows: Any) -> Any:
        build, inner = emit.build, gates
        if kind == GELU_TANH:
            cube = build.fmul(build.fmul(gates, gates), gates)
            inner = emit.fma(cube, splat(FLOAT, LANES, 0.044715), gates)
            inner = build.fmul(inner, splat(FLOAT, LANES, 2 * 0.7978845608028654))
        closed = exponential(emit, build.fsub(splat(FLOAT, LANES, -0.0), inner))
        passed = numbers.rounded(build.fdiv(gates, build.fadd(splat(FLOAT, LANES, 1.0), closed)))
        return build.fmul(passed, rows)

    return _pairs(f"gate_{_dtype(bf16)}_{kind}", bf16, 32, let)


@cache
def addition(bf16: bool) -> Function:
    """``add(left, right, result, count, threads)``."""
    return _pairs(f"add_{_dtype(bf16)}", bf16, 12, lambda emit, _, left, right: emit.build.fadd(left, right))


@cache
def storing() -> Function:
    """``store(rows, slots, heads, nodes, bytes, by_head, by_node, slots_by_head, slots_by_node)``.

    Copies ``[heads, nodes]`` pieces of so many bytes, a multiple of 16; ``by_...`` are bytes from one to the next.
    """
    name = "store"

    def write() -> ir.Module:
        module = ir.Module()
        emit = Emitter(module, name, [BYTES, BYTES] + [LONG] * 7, shared=True)
        build = emit.build
        rows, slots, heads, nodes, size, by_head, by_node, to_head, to_node = emit.arguments
        with emit.loop(heads) as head, emit.loop(nodes) as node:
            place = build.gep(rows, [build.add(build.mul(head, by_head), build.mul(node, by_node))])
            to = build.gep(slots, [build.add(build.mul(head, to_head), build.mul(node, to_node))])
            with emit.loop(size, step=16) as at:
                emit.store(emit.load(place, at, vector(INT, 4)), to, at)
        build.ret_void()
        return module

    return assembled(name, (ADDRESS, ADDRESS) + (COUNT,) * 7, write)
