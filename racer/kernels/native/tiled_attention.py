"""Attention of some queries over a cache, in bf16 and in the processor's tiles: a tree's nodes, with a mask of each.

A thread takes 16 queries of one group at a time, whose heads read the same keys and values. Their scores with all keys
are found in tiles; then each query's softmax, in float32; then, in tiles, the sums of the values by what it gives,
rounded to bf16, as torch's own fast attention rounds it.
"""

from __future__ import annotations

import ctypes
import math
from functools import cache
from typing import Any

import attrs
from llvmlite import ir

from racer.kernels.native.assembling import Function, assembled
from racer.kernels.native.attention import FACTS, JOB, run_attention
from racer.kernels.native.emitting import (
    BYTES,
    FLOAT,
    INT,
    LONG,
    SHORT,
    VOID,
    Emitter,
    Numbers,
    exponential,
    long,
    splat,
    vector,
)
from racer.kernels.native.team import job_of, pieces
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

WIDE = 4
"""Tiles of sums of values that are found at once."""
SUMS, LINES, COLUMNS = 0, WIDE, WIDE + 1
"""Tiles: the first of those, and what is multiplied."""


@cache
def tiled_attention(size: int) -> Function:
    """As :func:`racer.kernels.native.attention.attention` in bf16, for heads of a multiple of 32 numbers.

    :raises NotHere: there is none.
    """
    need_tiles()
    name = f"attend_tiles_{size}"

    def write() -> ir.Module:
        module = ir.Module()
        worker = _worker(module, size)
        run_attention(Emitter(module, name, [BYTES], shared=True), worker, size)
        return module

    return assembled(name, (ctypes.c_void_p,), write, by_list=True)


@attrs.frozen(eq=False)
class _Room:
    """A thread's memory, and what it works on: 16 queries over ``slots``, in lines of ``padded`` of them."""

    size: int
    slots: Any
    padded: Any
    queries: Any
    """``[16, size]`` in bf16"""
    scores: Any
    """``[16, padded]`` in float32"""
    chances: Any
    """The same in bf16."""
    sorted: Any
    """Tiles of what is to be columns, and of results."""
    masks: Any
    outs: Any
    """Addresses, of each query."""
    shares: Any
    """One by the sum of each query's chances, in float32."""


def _worker(module: ir.Module, size: int) -> Any:
    emit = Emitter(module, "worker", [BYTES])
    build = emit.build
    with all_tiles(emit):
        (facts, scaling), taken = job_of(emit, JOB)
        fact = {name: emit.load(facts, 8 * index, LONG) for index, name in enumerate(FACTS)}
        rows, slots = build.mul(fact["shared"], fact["nodes"]), fact["slots"]
        padded = build.and_(build.add(slots, long(STEP - 1)), long(-STEP))
        memory, room = _room(emit, size, slots, padded)
        shares = build.sdiv(build.add(rows, long(SIDE - 1)), long(SIDE))
        works = build.mul(build.mul(fact["batch"], fact["groups"]), shares)
        with pieces(emit, taken, works, 1) as (mine, _):
            piece, pair = build.srem(mine, shares), build.sdiv(mine, shares)
            group, batch = build.srem(pair, fact["groups"]), build.sdiv(pair, fact["groups"])
            keys, values = (
                build.gep(
                    build.inttoptr(fact[name], BYTES),
                    [build.add(build.mul(batch, fact[f"{name}_batch"]), build.mul(group, fact[f"{name}_head"]))],
                )
                for name in ("key", "value")
            )
            _gather(emit, room, fact, batch, group, build.mul(piece, long(SIDE)))
            _scores(emit, room, keys, fact["key_slot"])
            _softmax(emit, room, scaling)
            for first in range(0, size, WIDE * SIDE):
                _values(emit, room, values, fact["value_slot"], first, min(WIDE, (size - first) // SIDE))
        emit.call("free", VOID, memory)
    build.ret_void()
    return emit.function


def _room(emit: Emitter, size: int, slots: Any, padded: Any) -> tuple[Any, _Room]:
    """What is to be freed, and it."""
    build = emit.build
    addresses, numbers = ir.ArrayType(LONG, SIDE), ir.ArrayType(FLOAT, SIDE)
    masks, outs, shares = (build.bitcast(build.alloca(kind), BYTES) for kind in (addresses, addresses, numbers))
    tiles = TILE * max(size // STEP, WIDE)
    memory = emit.call(
        "malloc", BYTES, build.add(build.mul(padded, long(6 * SIDE)), long(2 * SIDE * size + tiles + LINE))
    )
    queries = aligned(emit, memory)
    columns = build.gep(queries, [long(2 * SIDE * size)])
    scores = build.gep(columns, [long(tiles)])
    chances = build.gep(scores, [build.mul(padded, long(4 * SIDE))])
    return memory, _Room(size, slots, padded, queries, scores, chances, columns, masks, outs, shares)


def _gather(emit: Emitter, room: _Room, fact: dict[str, Any], batch: Any, group: Any, first: Any) -> None:
    """Have 16 queries from the ``first`` of a group on side by side; behind the last, it is repeated."""
    build, size, nodes = emit.build, room.size, fact["nodes"]
    last = build.sub(build.mul(fact["shared"], nodes), long(1))
    heads = build.mul(fact["groups"], fact["shared"])
    with emit.loop(long(SIDE)) as i:
        row = least(emit, build.add(first, i), last)
        node, head = build.srem(row, nodes), build.add(build.mul(group, fact["shared"]), build.sdiv(row, nodes))
        begin = build.add(build.mul(batch, fact["query_batch"]), build.mul(head, fact["query_head"]))
        query = build.inttoptr(build.add(fact["query"], build.add(begin, build.mul(node, fact["query_node"]))), BYTES)
        to = build.gep(room.queries, [build.mul(i, long(2 * size))])
        for offset in range(0, 2 * size, LINE):
            emit.store(emit.load(query, offset, vector(INT, SIDE)), to, offset)
        mask = build.add(build.mul(batch, fact["mask_batch"]), build.mul(node, fact["mask_node"]))
        emit.store(build.add(fact["mask"], mask), room.masks, build.mul(i, long(8)))
        place = build.add(build.mul(build.add(build.mul(batch, nodes), node), heads), head)
        emit.store(build.add(fact["out"], build.mul(place, long(2 * size))), room.outs, build.mul(i, long(8)))


def _scores(emit: Emitter, room: _Room, keys: Any, key_slot: Any) -> None:
    """Of all queries with all keys; what stands behind the last slot says nothing."""
    build, size = emit.build, room.size
    last, line = build.sub(room.slots, long(1)), build.mul(room.padded, long(4))
    with emit.loop(room.slots, step=SIDE) as slot:
        near = [least(emit, build.add(slot, long(i)), last) for i in range(SIDE)]
        sort_columns(emit, [build.gep(keys, [build.mul(i, key_slot)]) for i in near], long(2 * size), room.sorted)
        zero(emit, SUMS)
        for step in range(size // STEP):
            fill(emit, LINES, build.gep(room.queries, [long(LINE * step)]), 2 * size)
            fill(emit, COLUMNS, build.gep(room.sorted, [long(TILE * step)]), LINE)
            multiply(emit, SUMS, LINES, COLUMNS)
        empty(emit, SUMS, build.gep(room.scores, [build.mul(slot, long(4))]), line)


def _softmax(emit: Emitter, room: _Room, scaling: Any) -> None:
    """From scores to chances, not yet divided by their sum; behind the last slot there are none."""
    build, slots = emit.build, room.slots
    whole = build.and_(slots, long(-SIDE))
    with emit.loop(long(SIDE)) as i:
        scores = build.gep(room.scores, [build.mul(i, build.mul(room.padded, long(4)))])
        chances = build.gep(room.chances, [build.mul(i, build.mul(room.padded, long(2)))])
        mask = build.inttoptr(emit.load(room.masks, build.mul(i, long(8)), LONG), BYTES)
        top: Any = ir.Constant(FLOAT, -3.0e38)  # where all are hidden by an infinite mask, a number all the same
        for lanes, start, stop in ((SIDE, long(0), whole), (1, whole, slots)):
            seen, held = Numbers(emit, True, lanes), emit.variable(splat(FLOAT, lanes, -3.0e38))
            with emit.loop(stop, start=start, step=lanes) as slot:
                place = build.mul(slot, long(4))
                score = build.fmul(emit.load(scores, place, vector(FLOAT, lanes)), emit.spread(scaling, lanes))
                score = build.fadd(score, seen.read(mask, build.mul(slot, long(2))))
                emit.store(score, scores, place)
                build.store(emit.binary("llvm.maxnum", build.load(held), score), held)
            top = emit.binary("llvm.maxnum", top, emit.reduced("fmax", build.load(held)))
        with emit.loop(room.padded, start=slots) as slot:
            emit.store(ir.Constant(FLOAT, -math.inf), scores, build.mul(slot, long(4)))
        total, numbers = emit.variable(splat(FLOAT, SIDE, 0.0)), Numbers(emit, True, SIDE)
        with emit.loop(room.padded, step=SIDE) as slot:
            score = emit.load(scores, build.mul(slot, long(4)), vector(FLOAT, SIDE))
            chance = exponential(emit, build.fsub(score, emit.spread(top, SIDE)))
            numbers.write(chance, chances, build.mul(slot, long(2)))
            build.store(build.fadd(build.load(total), chance), total)
        sum_ = emit.binary("llvm.maxnum", emit.reduced("fadd", build.load(total)), ir.Constant(FLOAT, 1e-30))
        emit.store(build.fdiv(ir.Constant(FLOAT, 1.0), sum_), room.shares, build.mul(i, long(4)))


def _values(emit: Emitter, room: _Room, values: Any, value_slot: Any, first: int, wide: int) -> None:
    """The results' numbers from the ``first`` on, ``wide`` tiles of them."""
    build, turns = emit.build, [lane // 2 + lane % 2 * SIDE for lane in range(STEP)]
    last = build.sub(room.slots, long(1))
    for tile in range(wide):
        zero(emit, SUMS + tile)
    with emit.loop(room.padded, step=STEP) as slot:
        for line in range(SIDE):  # holds two slots' numbers in turns
            starts = [
                build.gep(values, [build.mul(least(emit, build.add(slot, long(2 * line + i)), last), value_slot)])
                for i in range(2)
            ]
            for tile in range(wide):
                offset = 2 * (first + SIDE * tile)
                left, right = (emit.load(start, offset, vector(SHORT, SIDE)) for start in starts)
                mixed = build.shuffle_vector(left, right, ir.Constant(vector(INT, STEP), turns))
                emit.store(mixed, room.sorted, TILE * tile + LINE * line)
        fill(emit, LINES, build.gep(room.chances, [build.mul(slot, long(2))]), build.mul(room.padded, long(2)))
        for tile in range(wide):
            fill(emit, COLUMNS, build.gep(room.sorted, [long(TILE * tile)]), LINE)
            multiply(emit, SUMS + tile, LINES, COLUMNS)
    numbers = Numbers(emit, True, SIDE)
    for tile in range(wide):
        empty(emit, SUMS + tile, build.gep(room.sorted, [long(TILE * tile)]), LINE)
    with emit.loop(long(SIDE)) as i:
        out = build.inttoptr(emit.load(room.outs, build.mul(i, long(8)), LONG), BYTES)
        share = emit.spread(emit.load(room.shares, build.mul(i, long(4)), FLOAT), SIDE)
        for tile in range(wide):
            found = emit.load(room.sorted, build.add(build.mul(i, long(LINE)), long(TILE * tile)), vector(FLOAT, SIDE))
            numbers.write(build.fmul(found, share), out, 2 * (first + SIDE * tile))
