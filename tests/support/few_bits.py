"""Weights in few bits, laid out as the packed product reads them, and what they stand for."""

from __future__ import annotations

import ctypes

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from racer.kernels.native.few_bits import LANES, UNIT, Format
from racer.kernels.native.packed import packed_product


@attrs.frozen(eq=False)
class PackedMatrix:
    """A weight at random."""

    kept: Format
    numbers: NDArray[np.uint8]
    scales: NDArray[np.float32]
    least: NDArray[np.float32]
    bias: NDArray[np.float32] | None

    @classmethod
    def random(cls, kept: Format, outputs: int, inputs: int, seed: int, *, bias: bool) -> PackedMatrix:
        random, groups = np.random.default_rng(seed), inputs // kept.group
        dtype = np.float16 if kept.halves else np.float32
        scales, least = (
            (random.uniform(low, high, (outputs, groups)) / 8).astype(dtype).astype(np.float32)
            for low, high in ((-0.1, 1.0), (-4.0, 1.0))
        )
        numbers = random.integers(0, 1 << kept.bits, (outputs, inputs), dtype=np.uint8)
        own = random.normal(size=outputs).astype(np.float32) if bias else None
        return cls(kept, numbers, scales, least if kept.least else np.zeros_like(least), own)

    @property
    def weight(self) -> Tensor:
        """``[out, in]``, in float64."""
        scales, least = (np.repeat(some.astype(np.float64), self.kept.group, 1) for some in (self.scales, self.least))
        return torch.from_numpy((self.numbers.astype(np.float64) - self.kept.offset) * scales + least)

    def product(self, rows: Tensor, threads: int = 1) -> Tensor:
        """By the machine code."""
        outputs, inputs = self.numbers.shape
        weight, scales = self._blocks(), self._scales()
        bias = 0 if self.bias is None else self.bias.ctypes.data
        facts = (weight.ctypes.data, scales.ctypes.data, bias, outputs // LANES, inputs // UNIT, outputs)
        rows = rows.contiguous()
        static, out = (ctypes.c_int64 * len(facts))(*facts), torch.full((len(rows), outputs), 7.5)
        place = ctypes.addressof(static)
        packed_product(self.kept)(place, rows.data_ptr(), len(rows), out.data_ptr(), threads)
        return out

    def _blocks(self) -> NDArray[np.uint8]:
        """16 outputs x 32 inputs together: eight times 16 x 4 numbers. The low four bits of the first four times and
        those of the last four share bytes; then come the bits above, of as many times as fit into a byte."""
        outputs, inputs = self.numbers.shape
        blocks, units = outputs // LANES, inputs // UNIT
        quads = self.numbers.reshape(blocks, LANES, units, 8, 4).transpose(0, 2, 3, 1, 4)
        if self.kept.bits == 8:
            return np.ascontiguousarray(quads)
        low, extra = quads & 15, self.kept.bits - 4
        parts = [(low[:, :, :4] | (low[:, :, 4:] << 4)).reshape(blocks, units, 4 * 64)]
        if extra:
            high, per = quads >> 4, 8 // extra
            for start in range(0, 8, per):
                shifted = [high[:, :, start + i] << (i * extra) for i in range(per)]
                parts.append(np.bitwise_or.reduce(shifted).astype(np.uint8).reshape(blocks, units, 64))
        return np.ascontiguousarray(np.concatenate(parts, -1))

    def _scales(self) -> NDArray[np.floating]:
        blocks, units = self.numbers.shape[0] // LANES, self.numbers.shape[1] // UNIT
        kinds = (self.scales, self.least) if self.kept.least else (self.scales,)
        shape = blocks, LANES, units, self.kept.groups
        laid = np.concatenate([kind.reshape(shape).transpose(0, 2, 3, 1) for kind in kinds], 2)
        return np.ascontiguousarray(laid.astype(np.float16 if self.kept.halves else np.float32))
