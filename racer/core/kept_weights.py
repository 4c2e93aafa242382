"""Weights in few bits, as a file has them or as they are made from plain ones, and layers that multiply with them so.

A group of 16 or 32 numbers of a row has one scale: ``scale * (number - offset) + least``. Blocks of 16 rows lie
together, 32 numbers of each, so that machine code (:mod:`racer.kernels.native.packed`) reads them as they lie. Rows of
activations are taken in 16 bits a number; sums are float32.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from racer.core.layer_program import NODES, Depends
from racer.core.recording import recorder
from racer.kernels.native.few_bits import LANES, UNIT, Format
from racer.kernels.native.packed import QUADS, packed_product

INT4, INT8 = Format(4, 32, 0, True, True), Format(8, 32, 128, False, True)
"""What plain weights are made into."""


@attrs.frozen(eq=False)
class GroupedNumbers:
    """A weight as numbers and scales, row by row."""

    kept: Format
    numbers: NDArray[np.uint8]
    """``[out, in]``"""
    scale: NDArray[np.float32]
    """``[out, in / group]``"""
    least: NDArray[np.float32] | None = None
    """The same shape, if the format has it."""

    def rows(self, order: NDArray[np.int64]) -> GroupedNumbers:
        """These rows, in this order."""
        least = None if self.least is None else self.least[order]
        return GroupedNumbers(self.kept, self.numbers[order], self.scale[order], least)

    def dequantised(self) -> NDArray[np.float32]:
        """``[out, in]``"""
        outputs, inputs = self.numbers.shape
        groups = self.numbers.reshape(outputs, -1, self.kept.group).astype(np.float32)
        values = (groups - np.float32(self.kept.offset)) * self.scale[:, :, None]
        if self.least is not None:
            values += self.least[:, :, None]
        return values.reshape(outputs, inputs)


def quantised(weight: Tensor, kept: Format) -> GroupedNumbers:
    """A plain weight ``[out, in]`` rounded to the nearest of ``kept``, :data:`INT4` or :data:`INT8`."""
    values = weight.detach().float().numpy()
    groups = values.reshape(len(values), -1, kept.group)
    if kept.least:
        least = groups.min(-1).astype(np.float16).astype(np.float32)
        most = (1 << kept.bits) - 1
        scale = ((groups.max(-1) - least) / most).astype(np.float16).astype(np.float32)
    else:
        least, most = None, (1 << kept.bits) - 1 - kept.offset
        scale = (np.abs(groups).max(-1) / most).astype(np.float16).astype(np.float32)
    base = groups - (0.0 if least is None else least[:, :, None])
    steps = np.divide(base, scale[:, :, None], out=np.zeros_like(base), where=scale[:, :, None] > 0)
    numbers = np.clip(np.rint(steps) + kept.offset, 0, (1 << kept.bits) - 1).astype(np.uint8)
    return GroupedNumbers(kept, numbers.reshape(values.shape), scale, least)


class OfFixedTypes(nn.Module):
    """A module whose buffers machine code reads: they stay of their types when a model is given another, and here."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """What ``.to``, ``.half()``, ``.share_memory()`` and their like do to each module.

        :raises RuntimeError: it is to be moved away from the CPU.
        """
        for name, buffer in self._buffers.items():
            if buffer is None:
                continue
            like = fn(buffer.new_empty(0))
            if like.device != buffer.device:
                raise RuntimeError(
                    f"weights in few bits are multiplied by the CPU, and cannot go to {like.device}: load the model "
                    f"with device={str(like.device)!r}. What was moved already comes back with .to('cpu')"
                )
            if like.dtype == buffer.dtype:
                self._buffers[name] = fn(buffer)
        for child in self.children() if recurse else ():
            child._apply(fn)  # type: ignore[no-untyped-call]
        return self


class KeptWeight(OfFixedTypes):
    """A weight ``[out, in]`` in few bits. Its buffers hold all of it; layers may share one."""

    numbers: Tensor
    scales: Tensor

    def __init__(self, grouped: GroupedNumbers) -> None:
        """
        :raises ValueError: ``in`` is no multiple of 32.
        """
        super().__init__()
        if grouped.numbers.shape[1] % UNIT:
            raise ValueError(f"rows of {grouped.numbers.shape[1]} numbers, and {UNIT} lie together")
        self._hold(grouped.kept, *grouped.numbers.shape, *map(torch.from_numpy, _packed(grouped)))

    @classmethod
    def of(cls, kept: Format, outputs: int, inputs: int, numbers: Tensor, scales: Tensor) -> KeptWeight:
        """From the buffers of another."""
        held = cls.__new__(cls)
        nn.Module.__init__(held)
        held._hold(kept, outputs, inputs, numbers, scales)
        return held

    def _hold(self, kept: Format, outputs: int, inputs: int, numbers: Tensor, scales: Tensor) -> None:
        self.kept, self.outputs, self.inputs = kept, outputs, inputs
        self.blocks, self.units = -(-outputs // LANES), inputs // UNIT
        self.register_buffer("numbers", numbers, persistent=False)
        self.register_buffer("scales", scales, persistent=False)

    def rows(self, index: Tensor) -> Tensor:
        """Rows ``index [n]`` of the weight, in float32: ``[n, in]``."""
        kept, block, lane = self.kept, index // LANES, index % LANES
        scales = self.scales.view(self.blocks, self.units, -1, LANES)[block, :, :, lane].float()
        values = self._numbers(block, lane).view(len(index), self.units, kept.groups, kept.group).float()
        values = (values - kept.offset) * scales[:, :, : kept.groups, None]
        if kept.least:
            values = values + scales[:, :, kept.groups :, None]
        return values.reshape(len(index), self.inputs)

    def _numbers(self, block: Tensor, lane: Tensor) -> Tensor:
        bits = self.kept.bits
        if bits == 8:
            return self.numbers.view(self.blocks, self.units, QUADS, LANES, 4)[block, :, :, lane]
        low = self.numbers[..., : 64 * (QUADS // 2)].view(self.blocks, self.units, QUADS // 2, LANES, 4)
        halves = low[block, :, :, lane]  # [n, units, 4, 4]
        numbers = torch.cat([halves & 15, halves >> 4], 2)
        extra = bits - 4
        if extra:
            per = 8 // extra
            high = self.numbers[..., 256:].view(self.blocks, self.units, QUADS // per, LANES, 4)[block, :, :, lane]
            shifts = torch.arange(per, dtype=torch.uint8, device="cpu") * extra
            more = (high[:, :, :, None] >> shifts[:, None]) & ((1 << extra) - 1)  # [n, units, vectors, per, 4]
            numbers = numbers | (more.reshape(numbers.shape) << 4)
        return numbers

    def dequantised(self, start: int = 0, stop: int | None = None) -> Tensor:
        """Rows of the weight in float32."""
        return self.rows(torch.arange(start, self.outputs if stop is None else stop, device="cpu"))

    def product(self, rows: Tensor, facts: Any) -> Tensor:
        """``rows [..., in]`` in float32, without gaps, times the weight: ``[..., out]``.

        :param facts: of :meth:`facts`; the bias is among them.
        """
        shape, count, writer = (*rows.shape[:-1], self.blocks * LANES), rows.numel() // self.inputs, recorder()
        code, threads = packed_product(self.kept), torch.get_num_threads()
        out = rows.new_empty(shape) if writer is None else writer.empty(shape, torch.float32)
        code(ctypes.addressof(facts), rows.data_ptr(), count, out.data_ptr(), threads)
        if writer is not None:
            writer.weight(self._buffers, "numbers")  # its scales go with them: each place that is asked for takes time
            writer.kept.append(facts)
            writer.note(code, ctypes.addressof(facts), rows, Depends(NODES, count // writer.nodes), out, threads)
        return out if self.outputs == shape[-1] else out[..., : self.outputs].contiguous()

    def places(self, bias: Tensor | None) -> tuple[int, int, int]:
        """Where all that a product reads lies now."""
        return self.numbers.data_ptr(), self.scales.data_ptr(), 0 if bias is None else bias.data_ptr()

    def facts(self, bias: Tensor | None) -> Any:
        """What machine code is told of it."""
        return (ctypes.c_int64 * 6)(*self.places(bias), self.blocks, self.units, self.blocks * LANES)

    @property
    def nbytes(self) -> int:
        return self.numbers.nbytes + self.scales.nbytes

    def extra_repr(self) -> str:
        return f"{self.inputs}, {self.outputs}, bits={self.kept.bits}, group={self.kept.group}"


def _packed(grouped: GroupedNumbers) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    kept = grouped.kept
    outputs, inputs = grouped.numbers.shape
    more = -outputs % LANES
    blocks, units = (outputs + more) // LANES, inputs // UNIT

    def filled(rows: NDArray[Any]) -> NDArray[Any]:
        return np.pad(rows, ((0, more), (0, 0))) if more else rows

    quads = filled(grouped.numbers).reshape(blocks, LANES, units, QUADS, 4).transpose(0, 2, 3, 1, 4)
    if kept.bits == 8:
        numbers = np.ascontiguousarray(quads).reshape(blocks, units, -1)
    else:
        low = quads & 15
        parts = [(low[:, :, :4] | (low[:, :, 4:] << 4)).reshape(blocks, units, -1)]
        extra = kept.bits - 4
        if extra:
            per = 8 // extra
            high = (quads >> 4).reshape(blocks, units, QUADS // per, per, LANES, 4)
            shifts = (np.arange(per, dtype=np.uint8) * extra)[:, None, None]
            parts.append(np.bitwise_or.reduce(high << shifts, axis=3).reshape(blocks, units, -1))
        numbers = np.ascontiguousarray(np.concatenate(parts, -1))

    def lanes(rows: NDArray[np.float32]) -> NDArray[np.float32]:
        return filled(rows).reshape(blocks, LANES, units, kept.groups).transpose(0, 2, 3, 1)

    scales = lanes(grouped.scale)
    if grouped.least is not None:
        scales = np.concatenate([scales, lanes(grouped.least)], 2)
    return numbers, np.ascontiguousarray(scales.astype(np.float16 if kept.halves else np.float32))


def shape_of(layer: Any) -> tuple[int, ...]:
    """Of the weight of a linear layer or an embedding; one in few bits is not unpacked for it.

    :raises AttributeError: it has none.
    """
    held = getattr(layer, "held", None)
    return (held.outputs, held.inputs) if isinstance(held, KeptWeight) else tuple(layer.weight.shape)
