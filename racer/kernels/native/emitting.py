"""What is missing in llvmlite's builder to write loops over vectors briefly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from llvmlite import ir

BYTE, INT, LONG, FLOAT = ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.FloatType()
HALF, SHORT = ir.HalfType(), ir.IntType(16)
BYTES = BYTE.as_pointer()
VOID = ir.VoidType()


def long(number: int) -> ir.Constant:
    return ir.Constant(LONG, number)


class Emitter:
    """The body of one function, from top to bottom."""

    def __init__(self, module: ir.Module, name: str, parameters: Sequence[ir.Type], *, shared: bool = False) -> None:
        """
        :param shared: whether others than this module call it.
        """
        self.function = ir.Function(module, ir.FunctionType(VOID, parameters), name)
        if not shared:
            self.function.linkage = "internal"
        self.build = ir.IRBuilder(self.function.append_basic_block("entry"))

    @property
    def arguments(self) -> Any:
        return self.function.args

    def variable(self, first: Any) -> Any:
        """Memory of a number or vector that changes; the optimiser makes registers of it."""
        with self.build.goto_entry_block():
            place = self.build.alloca(first.type)
        self.build.store(first, place)
        return place

    @contextmanager
    def loop(self, count: Any, start: Any = None, step: int = 1) -> Iterator[Any]:
        """The body is emitted inside; its number is given."""
        build = self.build
        index = self.variable(long(0) if start is None else start)
        head, body, after = (build.append_basic_block(name) for name in ("head", "body", "after"))
        build.branch(head)
        build.position_at_end(head)
        now = build.load(index)
        build.cbranch(build.icmp_signed("<", now, count), body, after)
        build.position_at_end(body)
        yield now
        build.store(build.add(now, long(step)), index)
        build.branch(head)
        build.position_at_end(after)

    # -- memory ---------------------------------------------------------------------------------------------------

    def place(self, base: Any, offset: Any, kind: ir.Type) -> Any:
        """``base``, so many bytes on, as the place of a ``kind``."""
        offset = long(offset) if isinstance(offset, int) else offset
        return self.build.bitcast(self.build.gep(base, [offset]), kind.as_pointer())

    def load(self, base: Any, offset: Any, kind: ir.Type) -> Any:
        """A ``kind`` at so many bytes from ``base``, wherever that lies."""
        loaded = self.build.load(self.place(base, offset, kind))
        loaded.align = 1
        return loaded

    def store(self, value: Any, base: Any, offset: Any) -> None:
        self.build.store(value, self.place(base, offset, value.type)).align = 1

    # -- vectors --------------------------------------------------------------------------------------------------

    def spread(self, value: Any, lanes: int) -> Any:
        """A number in every lane."""
        kind = ir.VectorType(value.type, lanes)
        one = self.build.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(INT, 0))
        return self.build.shuffle_vector(
            one, ir.Constant(kind, ir.Undefined), ir.Constant(ir.VectorType(INT, lanes), [0] * lanes)
        )

    def call(self, name: str, result: ir.Type, *arguments: Any, fast: bool = False) -> Any:
        """Of a function outside this module, or an operation that LLVM knows by name."""
        module = self.function.module
        function = module.globals.get(name) or ir.Function(
            module, ir.FunctionType(result, [argument.type for argument in arguments]), name
        )
        return self.build.call(function, arguments, fastmath=("reassoc",) if fast else ())

    def fma(self, left: Any, right: Any, total: Any) -> Any:
        return self.call(_named("llvm.fma", total.type), total.type, left, right, total)

    def unary(self, name: str, value: Any) -> Any:
        return self.call(_named(name, value.type), value.type, value)

    def binary(self, name: str, left: Any, right: Any) -> Any:
        return self.call(_named(name, left.type), left.type, left, right)

    def reduced(self, name: str, vector: Any) -> Any:
        """One number of a vector's lanes."""
        if name == "fadd":
            zero = ir.Constant(FLOAT, -0.0)
            return self.call(_named("llvm.vector.reduce.fadd", vector.type), FLOAT, zero, vector, fast=True)
        return self.call(_named(f"llvm.vector.reduce.{name}", vector.type), vector.type.element, vector)


def gathered(emit: Emitter, vectors: list[Any]) -> Any:
    """The sums over the lanes of as many vectors as they have lanes, side by side in one vector.

    Two vectors are folded into one at a time, which holds half as many lanes of each: half the work of one by one.
    """
    build, lanes = emit.build, len(vectors)
    held = [(some, [number]) for number, some in enumerate(vectors)]
    length = lanes  # of what belongs to one number
    while len(held) > 1:
        half, after = length // 2, []
        for (left, numbers), (right, others) in zip(held[::2], held[1::2], strict=True):
            starts = range(0, 2 * lanes, length)
            first = [start + i for start in starts for i in range(half)]
            masks = (ir.Constant(vector(INT, lanes), [at + shift for at in first]) for shift in (0, half))
            low, high = (build.shuffle_vector(left, right, mask) for mask in masks)
            after.append((build.fadd(low, high), numbers + others))
        held, length = after, half
    result, numbers = held[0]
    order = [numbers.index(number) for number in range(lanes)]
    return build.shuffle_vector(result, result, ir.Constant(vector(INT, lanes), order))


def transposed(emit: Emitter, lines: list[Any]) -> list[Any]:
    """Of so many vectors, a power of two, the first has the first lanes of all, and so on.

    Where vectors have more lanes than there are vectors, this is done in each part of so many lanes.
    """
    size, lanes = len(lines), lines[0].type.count
    held, step = list(lines), size // 2
    while step:
        near = [lanes + lane - step if lane & step else lane for lane in range(lanes)]
        far = [lanes + lane if lane & step else lane + step for lane in range(lanes)]
        masks = [ir.Constant(vector(INT, lanes), mask) for mask in (near, far)]
        for place in (place for place in range(size) if not place & step):
            left, right = held[place], held[place + step]
            held[place], held[place + step] = (emit.build.shuffle_vector(left, right, mask) for mask in masks)
        step //= 2
    return held


def _named(name: str, kind: ir.Type) -> str:
    lanes, element = (f"v{kind.count}", kind.element) if isinstance(kind, ir.VectorType) else ("", kind)
    return f"{name}.{lanes}{'f32' if element == FLOAT else element}"


def vector(element: ir.Type, lanes: int) -> ir.VectorType:
    return ir.VectorType(element, lanes)


def splat(element: ir.Type, lanes: int, number: float) -> ir.Constant:
    return ir.Constant(vector(element, lanes), [number] * lanes)


class Numbers:
    """Reading and writing vectors of one dtype as float32."""

    def __init__(self, emit: Emitter, bf16: bool, lanes: int = 16) -> None:
        self.emit, self.bf16, self.lanes = emit, bf16, lanes
        self.size = 2 if bf16 else 4
        """Bytes of a number."""

    def read(self, base: Any, offset: Any) -> Any:
        """At so many bytes."""
        if not self.bf16:
            return self.emit.load(base, offset, vector(FLOAT, self.lanes))
        return self.widened(self.emit.load(base, offset, vector(SHORT, self.lanes)))

    def write(self, numbers: Any, base: Any, offset: Any) -> None:
        self.emit.store(self.narrowed(numbers) if self.bf16 else numbers, base, offset)

    def widened(self, shorts: Any) -> Any:
        build = self.emit.build
        high = build.shl(build.zext(shorts, vector(INT, self.lanes)), splat(INT, self.lanes, 16))
        return build.bitcast(high, vector(FLOAT, self.lanes))

    def narrowed(self, numbers: Any) -> Any:
        """To the nearest bf16, to the even one between two; what is no number stays none."""
        build, lanes = self.emit.build, self.lanes
        return build.trunc(build.lshr(self.near(numbers), splat(INT, lanes, 16)), vector(SHORT, lanes))

    def near(self, numbers: Any) -> Any:
        """Bits whose upper halves are those."""
        build, lanes = self.emit.build, self.lanes
        bits = build.bitcast(numbers, vector(INT, lanes))
        odd = build.and_(build.lshr(bits, splat(INT, lanes, 16)), splat(INT, lanes, 1))
        near = build.add(build.add(bits, splat(INT, lanes, 0x7FFF)), odd)
        none = build.fcmp_unordered("uno", numbers, numbers)
        return build.select(none, build.or_(bits, splat(INT, lanes, 0x400000)), near)

    def rounded(self, numbers: Any) -> Any:
        """As if they had been written and read."""
        return self.widened(self.narrowed(numbers)) if self.bf16 else numbers


def exponential(emit: Emitter, numbers: Any) -> Any:
    """``exp`` of a vector, to within a few units in the last place; nothing below -87, no infinity above 88.

    What is no number stays none.
    """
    build, lanes = emit.build, numbers.type.count

    def every(number: float) -> ir.Constant:
        return splat(FLOAT, lanes, number)

    none, given = build.fcmp_unordered("uno", numbers, numbers), numbers
    low = build.fcmp_ordered("<", numbers, every(-87.0))
    numbers = emit.binary("llvm.minnum", numbers, every(88.0))
    numbers = emit.binary("llvm.maxnum", numbers, every(-87.0))
    power = emit.unary("llvm.rint", build.fmul(numbers, every(1.4426950408889634)))
    rest = emit.fma(power, every(-0.693359375), numbers)
    rest = emit.fma(power, every(2.12194440054690583e-4), rest)
    sum_ = every(1.9875691500e-4)
    for factor in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
        sum_ = emit.fma(sum_, rest, every(factor))
    result = build.fadd(emit.fma(sum_, build.fmul(rest, rest), rest), every(1.0))
    whole = build.add(build.fptosi(power, vector(INT, lanes)), splat(INT, lanes, 127))
    scale = build.bitcast(build.shl(whole, splat(INT, lanes, 23)), vector(FLOAT, lanes))
    return build.select(none, given, build.select(low, every(0.0), build.fmul(result, scale)))
