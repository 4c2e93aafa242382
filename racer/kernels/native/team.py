"""Work that threads share: each takes the next piece until there are none left."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from llvmlite import ir

from racer.kernels.native.emitting import BYTES, INT, LONG, VOID, Emitter, long

PRODUCT = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_int32)
"""Arguments of products: ``static, rows, count, result, threads``."""
ALONE = 1 << 18
"""Products of numbers up to which one thread has done it before another wakes up."""


def run_by_all(emit: Emitter, worker: Any, facts: Sequence[Any], threads: Any, products: Any) -> None:
    """``worker(job)`` in so many threads; in this one where it is not worth waking others.

    :param facts: what the job is; :func:`job_of` gives it to the worker.
    :param products: of numbers that there are to be made.
    """
    build = emit.build
    job = build.alloca(ir.LiteralStructType([*(fact.type for fact in facts), LONG]))
    for index, value in enumerate((*facts, long(0))):
        build.store(value, _field(emit, job, index))
    opaque = build.bitcast(job, BYTES)
    alone = build.or_(
        build.icmp_signed("<=", threads, ir.Constant(INT, 1)), build.icmp_signed("<=", products, long(ALONE))
    )
    with build.if_else(alone) as (one, several):
        with one:
            build.call(worker, [opaque])
        with several:
            emit.call("GOMP_parallel", VOID, worker, opaque, threads, ir.Constant(INT, 0))


def job_of(emit: Emitter, kinds: Sequence[ir.Type]) -> tuple[list[Any], Any]:
    """A worker's facts, of these kinds, and the place of the number of pieces that are taken."""
    kind = ir.LiteralStructType([*kinds, LONG])
    job = emit.build.bitcast(emit.arguments[0], kind.as_pointer())
    return [emit.build.load(_field(emit, job, i)) for i in range(len(kinds))], _field(emit, job, len(kinds))


def _field(emit: Emitter, job: Any, index: int) -> Any:
    return emit.build.gep(job, [ir.Constant(INT, 0), ir.Constant(INT, index)], inbounds=True)


@contextmanager
def pieces(emit: Emitter, taken: Any, total: Any, size: int) -> Iterator[tuple[Any, Any]]:
    """The body is emitted inside, for one piece of ``size`` of ``total``: from the first to behind the last.

    :param taken: where threads count.
    """
    build = emit.build
    again, work, end = (build.append_basic_block(name) for name in ("again", "work", "end"))
    build.branch(again)
    build.position_at_end(again)
    first = build.atomic_rmw("add", taken, long(size), "monotonic")
    build.cbranch(build.icmp_signed("<", first, total), work, end)
    build.position_at_end(work)
    last = build.add(first, long(size))
    yield first, build.select(build.icmp_signed("<", last, total), last, total)
    build.branch(again)
    build.position_at_end(end)
