"""Attention of a few queries over a cache: a tree's nodes, each with a mask of its own.

The heads of a group read the same keys and values. A thread takes a few queries of one group at a time: their scores
with all keys, the softmax of these, and the sum of the values by it, in float32.
"""

from __future__ import annotations

import ctypes
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
    exponential,
    gathered,
    long,
    splat,
    vector,
)  # fmt: skip
from racer.kernels.native.team import job_of, pieces, run_by_all

LANES = 16
ACCUMULATORS = 16
"""Vectors that are held at once: of queries, and of sums of values."""
FACTS = (
    "query", "key", "value", "mask", "out", "batch", "groups", "shared", "nodes", "slots",
    "query_batch", "query_head", "query_node", "key_batch", "key_head", "key_slot",
    "value_batch", "value_head", "value_slot", "mask_batch", "mask_node", "scaling", "threads",
)  # fmt: skip
"""What the code reads, as numbers of 8 bytes: addresses, counts, bytes from one to the next. ``groups`` is heads of
keys, ``shared`` queries' heads for each; the result is ``[B, N, H, D]`` without gaps."""
JOB = (BYTES, FLOAT)
"""Facts and scaling."""


@cache
def attention(bf16: bool, size: int) -> Function:
    """``attend(facts)``, a list of :data:`FACTS`, for heads of ``size`` numbers, a multiple of 16 up to 256."""
    name = f"attend_{'bf16' if bf16 else 'f32'}_{size}"

    def write() -> ir.Module:
        module = ir.Module()
        together = max(1, ACCUMULATORS // (size // LANES))
        together = 1 << (together.bit_length() - 1)  # sums are folded by halves
        tiles = {rows: _tile(module, bf16, size, rows) for rows in sorted({together, 1}, reverse=True)}
        worker = _worker(module, bf16, size, tiles)
        run_attention(Emitter(module, name, [BYTES], shared=True), worker, size)
        return module

    return assembled(name, (ctypes.c_void_p,), write, by_list=True)


def run_attention(emit: Emitter, worker: Any, size: int) -> None:
    """The whole of a function that takes facts: it has the threads attend."""
    build, facts = emit.build, emit.arguments[0]
    scaling = emit.load(facts, 8 * FACTS.index("scaling"), FLOAT)
    threads = emit.load(facts, 8 * FACTS.index("threads"), INT)
    products: Any = long(2 * size)
    for fact in ("batch", "groups", "shared", "nodes", "slots"):
        products = build.mul(products, emit.load(facts, 8 * FACTS.index(fact), LONG))
    run_by_all(emit, worker, (facts, scaling), threads, products)
    build.ret_void()


def _tile(module: ir.Module, bf16: bool, size: int, rows: int) -> Any:
    """A few queries: where they are, their masks, their results; the keys, the values, and room for scores."""
    parts = size // LANES
    emit = Emitter(module, f"tile{rows}", [BYTES] * (3 * rows) + [BYTES] * 3 + [LONG] * 3 + [FLOAT])
    build, numbers = emit.build, Numbers(emit, bf16)
    queries, masks, outs = (emit.arguments[i * rows : (i + 1) * rows] for i in range(3))
    keys, values, scores, slots, key_slot, value_slot, scaling = emit.arguments[3 * rows :]
    room = build.mul(slots, long(4))
    own = [build.gep(scores, [build.mul(room, long(row))]) for row in range(rows)]
    held = [[numbers.read(query, LANES * numbers.size * part) for part in range(parts)] for query in queries]
    several = LANES // rows  # keys whose scores with all queries are found together
    whole = build.and_(slots, long(-several))
    for count, start, stop in ((several, long(0), whole), (1, whole, slots)):
        some = Numbers(emit, bf16, count)
        with emit.loop(stop, start=start, step=count) as slot:
            near = [build.gep(keys, [build.mul(build.add(slot, long(i)), key_slot)]) for i in range(count)]
            read = [[numbers.read(key, LANES * numbers.size * part) for part in range(parts)] for key in near]
            dots = [_dot(emit, query, key) for query in held for key in read]
            if count == several:
                together = gathered(emit, dots)
            for row in range(rows):
                if count == several:
                    lanes = [row * count + i for i in range(count)]
                    own_dots = build.shuffle_vector(together, together, ir.Constant(vector(INT, count), lanes))
                else:
                    own_dots = emit.spread(emit.reduced("fadd", dots[row]), 1)
                seen = some.read(masks[row], build.mul(slot, long(numbers.size)))
                score = build.fadd(build.fmul(own_dots, emit.spread(scaling, count)), seen)
                emit.store(score, own[row], build.mul(slot, long(4)))
    sums = [emit.variable(ir.Constant(FLOAT, 0.0)) for _ in range(rows)]
    whole = build.and_(slots, long(-LANES))
    for row in range(rows):
        top = _largest(emit, own[row], slots)
        for width, start, stop in ((LANES, long(0), whole), (1, whole, slots)):
            total_ = emit.variable(splat(FLOAT, width, 0.0))
            with emit.loop(stop, start=start, step=width) as slot:
                place = build.mul(slot, long(4))
                some = build.fsub(emit.load(own[row], place, vector(FLOAT, width)), emit.spread(top, width))
                chances = exponential(emit, some)
                emit.store(chances, own[row], place)
                build.store(build.fadd(build.load(total_), chances), total_)
            build.store(build.fadd(build.load(sums[row]), emit.reduced("fadd", build.load(total_))), sums[row])
    results = [[emit.variable(splat(FLOAT, LANES, 0.0)) for _ in range(parts)] for _ in range(rows)]
    with emit.loop(slots) as slot:
        value = build.gep(values, [build.mul(slot, value_slot)])
        read_values = [numbers.read(value, LANES * numbers.size * part) for part in range(parts)]
        for row in range(rows):
            chance = emit.spread(emit.load(own[row], build.mul(slot, long(4)), FLOAT), LANES)
            for part in range(parts):
                place = results[row][part]
                build.store(emit.fma(chance, read_values[part], build.load(place)), place)
    for row in range(rows):
        share = emit.binary("llvm.maxnum", build.load(sums[row]), ir.Constant(FLOAT, 1e-30))
        factor = emit.spread(build.fdiv(ir.Constant(FLOAT, 1.0), share), LANES)
        for part in range(parts):
            numbers.write(build.fmul(build.load(results[row][part]), factor), outs[row], LANES * numbers.size * part)
    build.ret_void()
    return emit.function


def _dot(emit: Emitter, query: list[Any], key: list[Any]) -> Any:
    """Its lanes are still to be added."""
    total: Any = emit.build.fmul(query[0], key[0])
    for left, right in zip(query[1:], key[1:], strict=True):
        total = emit.fma(left, right, total)
    return total


def _largest(emit: Emitter, scores: Any, slots: Any) -> Any:
    """Of a query's scores; where all are hidden by an infinite mask, a number all the same."""
    build = emit.build
    whole = build.and_(slots, long(-LANES))
    most = ir.Constant(FLOAT, -3.0e38)
    found: Any = most
    for lanes, start, stop in ((LANES, long(0), whole), (1, whole, slots)):
        held = emit.variable(splat(FLOAT, lanes, -3.0e38))
        with emit.loop(stop, start=start, step=lanes) as slot:
            some = emit.load(scores, build.mul(slot, long(4)), vector(FLOAT, lanes))
            build.store(emit.binary("llvm.maxnum", build.load(held), some), held)
        found = emit.binary("llvm.maxnum", found, emit.reduced("fmax", build.load(held)))
    return found


def _worker(module: ir.Module, bf16: bool, size: int, tiles: dict[int, Any]) -> Any:
    """Takes a few queries of one group of one row of the batch at a time."""
    emit = Emitter(module, "worker", [BYTES])
    build, bytes_ = emit.build, 2 if bf16 else 4
    (facts, scaling), taken = job_of(emit, JOB)
    fact = {name: emit.load(facts, 8 * index, LONG) for index, name in enumerate(FACTS)}
    query, key, value, mask, out = (build.inttoptr(fact[name], BYTES) for name in FACTS[:5])
    rows, nodes, slots = build.mul(fact["shared"], fact["nodes"]), fact["nodes"], fact["slots"]
    together = max(tiles)
    shares = build.sdiv(build.add(rows, long(together - 1)), long(together))
    heads = build.mul(fact["groups"], fact["shared"])
    works = build.mul(build.mul(fact["batch"], fact["groups"]), shares)
    scores = emit.call("malloc", BYTES, build.mul(slots, long(4 * together)))
    with pieces(emit, taken, works, 1) as (mine, _):
        piece, pair = build.srem(mine, shares), build.sdiv(mine, shares)
        group, batch = build.srem(pair, fact["groups"]), build.sdiv(pair, fact["groups"])
        keys = build.gep(key, [build.add(build.mul(batch, fact["key_batch"]), build.mul(group, fact["key_head"]))])
        values = build.gep(
            value, [build.add(build.mul(batch, fact["value_batch"]), build.mul(group, fact["value_head"]))]
        )
        masks = build.gep(mask, [build.mul(batch, fact["mask_batch"])])
        first = build.mul(piece, long(together))
        last = build.add(first, long(together))
        last = build.select(build.icmp_signed("<", last, rows), last, rows)
        at = emit.variable(first)
        build.store(first, at)
        for count in sorted(tiles, reverse=True):
            with emit.loop(build.sdiv(build.sub(last, build.load(at)), long(count))):
                places: list[list[Any]] = [[], [], []]
                for i in range(count):
                    row = build.add(build.load(at), long(i))
                    node = build.srem(row, nodes)
                    head = build.add(build.mul(group, fact["shared"]), build.sdiv(row, nodes))
                    begin = build.add(build.mul(batch, fact["query_batch"]), build.mul(head, fact["query_head"]))
                    places[0].append(build.gep(query, [build.add(begin, build.mul(node, fact["query_node"]))]))
                    places[1].append(build.gep(masks, [build.mul(node, fact["mask_node"])]))
                    place = build.add(build.mul(build.add(build.mul(batch, nodes), node), heads), head)
                    places[2].append(build.gep(out, [build.mul(place, long(size * bytes_))]))
                flat = [place for several in places for place in several]
                more = [keys, values, scores, slots, fact["key_slot"], fact["value_slot"], scaling]
                build.call(tiles[count], flat + more)
                build.store(build.add(build.load(at), long(count)), at)
    emit.call("free", VOID, scores)
    build.ret_void()
    return emit.function
