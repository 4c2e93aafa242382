"""What machine code a layer runs, written down while it runs, to be run again without Python in between.

Between two products of a layer lie a dozen small operations. Each is done in a microsecond; what takes long is the way
there, through modules, torch and tensors, most of all as the weights that pass have driven all of that out of the
processor's caches. So what a layer's parts ask of machine code is noted once in a call, with where the numbers lie and
which arguments depend on the number of nodes, the slots of the cache, or the place of what the layer is given. Later
passes fill these in and run the list. Only what consists of nothing else is ever run so: an operation of torch that is
not known here ends the recording, and the layer runs as it is.
"""

from __future__ import annotations

import ctypes
import struct
import threading
from collections.abc import Sequence
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from racer.kernels.native.program import CALL, FILL, running
from racer.kernels.native.small import addition, storing

MOST = 64
"""Nodes of a pass that may be recorded, or run from a recording."""
BLOCK = 1 << 20
"""Bytes that are allocated at once for what is between."""
NODES, SLOTS, END, INPUTS = 0, 1, 2, 3
"""Registers: nodes, slots that are attended to, slots that are committed, and from here on places of what is given."""

_local = threading.local()


def recorder() -> Recorder | None:
    """Who writes down what this thread does now."""
    return getattr(_local, "recorder", None)


@attrs.frozen
class Depends:
    """An argument that is ``factor`` times a register, and ``more``."""

    register: int
    factor: int = 1
    more: int = 0


def bits_of(number: float) -> int:
    """A float32 in the first half of 8 bytes."""
    bits: int = struct.unpack("q", struct.pack("fi", number, 0))[0]
    return bits


class Unrecordable(Exception):
    """What cannot be written down."""


class Arena:
    """Memory of what is between, at addresses that stay."""

    def __init__(self) -> None:
        self._blocks: list[Tensor] = []
        self._block = self._used = 0

    def rewind(self) -> None:
        """Use it from its beginning again."""
        self._block = self._used = 0

    def take(self, size: int) -> Tensor:
        """So many bytes."""
        size = -(-size // 64) * 64
        while self._block < len(self._blocks) and self._used + size > len(self._blocks[self._block]):
            self._block, self._used = self._block + 1, 0
        if self._block == len(self._blocks):
            self._blocks.append(torch.empty(max(size, BLOCK), dtype=torch.uint8, device="cpu"))
        start, self._used = self._used, self._used + size
        return self._blocks[self._block][start : start + size]

    def holds(self, place: int) -> bool:
        return any(block.data_ptr() <= place < block.data_ptr() + len(block) for block in self._blocks)


class Recorder:
    """Writes down one pass of one layer over one row of nodes.

    :param inputs: what the layer is given, ``[1, N, ...]`` or ``[1, 1, N, K]``.
    """

    def __init__(self, arena: Arena, nodes: int, inputs: Sequence[Tensor]) -> None:
        self.arena, self.nodes = arena, nodes
        self._inputs = {part.data_ptr(): INPUTS + index for index, part in enumerate(inputs)}
        self._made: list[tuple[Tensor, Tensor]] = []
        self._fixed: set[int] = set()
        self._calls: list[tuple[Any, tuple[Any, ...]]] = []
        self.weights: list[tuple[dict[str, Any], str, Tensor, int]] = []
        """What must lie where it lay: where it is held, its name, itself, its place."""
        self.kept: list[Any] = []
        self.failure = ""

    def fail(self, reason: str) -> None:
        self.failure = self.failure or reason

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """``[1, N, ...]``, with room for as many nodes as there may be."""
        if len(shape) < 2 or shape[0] != 1 or shape[1] != self.nodes:
            self.fail(f"a result of shape {tuple(shape)}")
            return torch.empty(shape, dtype=dtype, device="cpu")
        count = torch.Size(shape).numel()
        room = self.arena.take(count // self.nodes * MOST * dtype.itemsize)
        every = room[: count // self.nodes * MOST * dtype.itemsize].view(dtype).view(1, MOST, *shape[2:])
        made = every[:, : self.nodes]
        self._made.append((made, every))
        return made

    def weight(self, holder: dict[str, Any], name: str) -> None:
        """Note that a weight is read where it lies now."""
        held = holder[name]
        if held is not None:
            self.weights.append((holder, name, held, held.data_ptr()))

    def fix(self, part: Tensor) -> None:
        """Note that numbers lie where they do as long as the recording is used: the cache's."""
        self._fixed.add(part.data_ptr())

    def place(self, part: Tensor) -> int:
        """Of what was noted so."""
        place = part.data_ptr()
        if place not in self._fixed:
            self.fail("keys and values that are not the cache's")
        return place

    def note(self, function: Any, *arguments: Any) -> None:
        """That ``function`` was called; tensors stand for their places, floats are float32."""
        try:
            self._calls.append((function, tuple(self._argument(part) for part in arguments)))
        except Unrecordable as error:
            self.fail(str(error))

    def _argument(self, part: Any) -> Any:
        if isinstance(part, float):
            return bits_of(part)
        if not isinstance(part, Tensor):
            return part
        place = part.data_ptr()
        if self.arena.holds(place) or any(place == weight[3] for weight in self.weights):
            return place
        register = self._inputs.get(place)
        if register is None:
            raise Unrecordable(f"numbers of shape {tuple(part.shape)} from elsewhere")
        return Depends(register)

    def program(self, layer: Any, result: Any) -> Program:
        """What was written down of ``layer``.

        :raises Unrecordable: it is not all that was done.
        """
        if self.failure:
            raise Unrecordable(self.failure)
        every = next((every for made, every in self._made if made is result), None)
        if every is None:
            raise Unrecordable("a result that was not made by what was noted")
        return Program(self._calls, every, self.weights, _states_of(layer), self.kept)


def _states_of(module: Any) -> list[dict[str, Any]]:
    """What a module holds, and those within it."""
    own = vars(module)
    return [own, *(state for child in own["_modules"].values() if child is not None for state in _states_of(child))]


class Program:
    """A layer's pass, to be run again."""

    def __init__(
        self,
        calls: Sequence[tuple[Any, tuple[Any, ...]]],
        every: Tensor,
        weights: list[tuple[dict[str, Any], str, Tensor, int]],
        states: list[dict[str, Any]],
        kept: list[Any],
    ) -> None:
        """
        :param every: the result, with room for as many nodes as there may be.
        :param weights: see :attr:`Recorder.weights`.
        :param states: of the modules that take part.
        :param kept: what must not go.
        """
        lists, fills, table = [], [], []
        for function, arguments in calls:
            own = (ctypes.c_int64 * max(len(arguments), 1))()
            for index, part in enumerate(arguments):
                if isinstance(part, Depends):
                    fills += [ctypes.addressof(own) + 8 * index, part.register, part.factor, part.more]
                else:
                    own[index] = part
            lists.append(own)
            table += [function.by_list, ctypes.addressof(own)]
        self._lists, self._weights, self._kept = lists, weights, kept
        self._states = [(state, tuple(state["_modules"].values())) for state in states]
        self._table = (ctypes.c_int64 * len(table))(*table)
        self._fills = (ctypes.c_int64 * max(len(fills), 1))(*fills)
        self._arguments = ctypes.addressof(self._table), len(calls), ctypes.addressof(self._fills), len(fills) // FILL
        self._run = running()
        self._registers = (ctypes.c_int64 * 16)()
        self._place = ctypes.addressof(self._registers)
        self.every, self._result = every, every
        """The result of as many nodes as there may be, and of the last pass."""

    @property
    def table(self) -> list[int]:
        """What is called, and with which lists."""
        return list(self._table)

    def filled(self) -> list[list[int]]:
        """What is filled in: place, register, factor, and what is added."""
        numbers = list(self._fills)[: FILL * self._arguments[3]]
        return [numbers[start : start + FILL] for start in range(0, len(numbers), FILL)]

    def is_current(self) -> bool:
        """Whether all weights lie where they lay, and modules are what they were, without hooks.

        Plain settings of modules are not looked at: what is set within a call counts from the next one on.
        """
        for state, children in self._states:
            if state["_forward_hooks"] or state["_forward_pre_hooks"] or "forward" in state:
                return False
            if children and tuple(state["_modules"].values()) != children:
                return False
        for holder, name, weight, place in self._weights:
            if holder.get(name) is not weight or weight.data_ptr() != place:
                return False
        return True

    def run(self, nodes: int, slots: int, end: int, inputs: Sequence[Tensor]) -> Tensor:
        """The layer's result ``[1, N, ...]``, good until the layer after the next has run."""
        _fill(self._registers, nodes, slots, end, inputs)
        self._run(*self._arguments, self._place)
        if self._result.shape[1] != nodes:
            self._result = self.every.narrow(1, 0, nodes)
        return self._result


class Chain:
    """Programs of layers that follow one another, run as one. Each result has a place of its own.

    :param keys: what tells them.
    :param programs: each goes on from what the one before it gave, and is given the same besides.
    """

    def __init__(self, keys: Sequence[Any], programs: Sequence[Program]) -> None:
        self.keys, self._programs = keys, programs
        self._every = [torch.empty_like(program.every) for program in programs]
        self.results = self._every
        """Of the last pass."""
        self._lists: list[Any] = []
        table: list[int] = []
        fills: list[int] = []
        for index, program in enumerate(programs):
            before = None if index == 0 else self._every[index - 1]
            for place, register, factor, more in program.filled():
                if register == INPUTS and before is not None:
                    register, factor, more = NODES, 0, before.data_ptr()
                fills += [place, register, factor, more]
            table += program.table
            table += self._kept(program.every, self._every[index], fills)
        self._table = (ctypes.c_int64 * len(table))(*table)
        self._fills = (ctypes.c_int64 * len(fills))(*fills)
        self._arguments = (
            ctypes.addressof(self._table), len(table) // CALL, ctypes.addressof(self._fills), len(fills) // FILL,
        )  # fmt: skip
        self._run = running()
        self._registers = (ctypes.c_int64 * 16)()
        self._place = ctypes.addressof(self._registers)

    def _kept(self, result: Tensor, to: Tensor, fills: list[int]) -> list[int]:
        """A call that copies a result to its own place: the layer after the next writes over it."""
        size = result[0, 0].numel() * result.element_size()
        own = (ctypes.c_int64 * 9)(result.data_ptr(), to.data_ptr(), 1, 0, size, 0, size, 0, size)
        self._lists.append(own)
        fills += [ctypes.addressof(own) + 8 * 3, NODES, 1, 0]
        return [storing().by_list, ctypes.addressof(own)]

    def is_current(self) -> bool:
        return all(program.is_current() for program in self._programs)

    def run(self, nodes: int, slots: int, end: int, inputs: Sequence[Tensor]) -> None:
        """Let all layers run, the first from ``inputs``."""
        _fill(self._registers, nodes, slots, end, inputs)
        self._run(*self._arguments, self._place)
        if self.results[0].shape[1] != nodes:
            self.results = [every.narrow(1, 0, nodes) for every in self._every]


def _fill(registers: Any, nodes: int, slots: int, end: int, inputs: Sequence[Tensor]) -> None:
    registers[NODES], registers[SLOTS], registers[END] = nodes, slots, end
    for index, part in enumerate(inputs, INPUTS):
        registers[index] = part.data_ptr()


_MEMORY = (torch.ops.aten.empty.memory_format, torch.ops.aten.empty_like.default, torch.ops.aten.empty_strided.default)
"""What gives memory, and writes nothing."""


class Watch(TorchDispatchMode):
    """Sees what torch does beside: sums are written down, views are nothing, all else cannot be."""

    def __init__(self, writer: Recorder) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._writer = writer

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten.add.Tensor and not kwargs and len(args) == 2:
            added = self._added(*args)
            if added is not None:
                return added
        elif not func.is_view and func not in _MEMORY:
            self._writer.fail(f"{func} is not known")
        return func(*args, **kwargs)

    def _added(self, left: Any, right: Any) -> Tensor | None:
        writer = self._writer
        fits = (
            type(left) is Tensor
            and type(right) is Tensor
            and left.shape == right.shape
            and left.dtype == right.dtype
            and left.dtype in (torch.bfloat16, torch.float32)
            and left.is_contiguous()
            and right.is_contiguous()
            and left.shape[-1] % 16 == 0
        )
        if not fits:
            writer.fail("a sum of another kind")
            return None
        code = addition(left.dtype is torch.bfloat16)
        out = writer.empty(tuple(left.shape), left.dtype)
        count = left.numel()
        code(left.data_ptr(), right.data_ptr(), out.data_ptr(), count)
        writer.note(code, left, right, out, Depends(NODES, count // writer.nodes))
        return out


def recorded(writer: Recorder, layer: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """The result of ``layer(*arguments, **named)``, while ``writer`` writes down what it does."""
    _local.recorder = writer
    try:
        with Watch(writer):
            return layer(*arguments, **named)
    finally:
        _local.recorder = None
