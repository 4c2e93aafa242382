"""What machine code a layer runs, written down while it runs, to be run again without Python in between.

Between two products of a layer lie a dozen small operations. Each is done in a microsecond; what takes long is the way
there, through modules, torch and tensors, most of all as the weights that pass have driven all of that out of the
processor's caches. So what a layer's parts ask of machine code is noted once in a call, with where the numbers lie and
which arguments depend on the number of nodes, the slots of the cache, or the place of what the layer is given. Later
passes fill these in and run the list. Only what consists of nothing else is ever run so: an operation of torch that is
not known here ends the recording, and the layer runs as it is.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from racer.core.layer_program import INPUTS, MOST, NODES, Depends, Program, Slots, states_of
from racer.kernels.native.small import addition

BLOCK = 1 << 20
"""Bytes that are allocated at once for what is between."""

DTYPES = (torch.bfloat16, torch.float32)
"""For which there is machine code."""

_local = threading.local()


def recorder() -> Recorder | None:
    """Who writes down what this thread does now."""
    return getattr(_local, "recorder", None)


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
        self._slots: dict[int, Slots] = {}
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

    def cached(self, part: Tensor, slots: Slots) -> None:
        """Note whose keys or values lie at the beginning of ``part``."""
        self._slots[part.data_ptr()] = slots

    def slots(self, part: Tensor) -> Slots:
        """Of what was noted so."""
        slots = self._slots.get(part.data_ptr())
        if slots is None:
            self.fail("keys and values that are not the cache's")
        return slots or Slots(0, values=False)

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
            return part  # numbers, and what becomes a number later
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
        return Program(self._calls, every, self.weights, states_of(layer), self.kept)


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
            and left.dtype in DTYPES
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
        threads = torch.get_num_threads()
        code(left.data_ptr(), right.data_ptr(), out.data_ptr(), count, threads)
        writer.note(code, left, right, out, Depends(NODES, count // writer.nodes), threads)
        return out


def recorded(writer: Recorder, layer: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """The result of ``layer(*arguments, **named)``, while ``writer`` writes down what it does."""
    _local.recorder = writer
    try:
        with Watch(writer):
            return layer(*arguments, **named)
    finally:
        _local.recorder = None
