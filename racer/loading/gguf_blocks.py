"""The blocks of quantised tensors in GGUF files, as numbers and scales; nothing is lost.

What the types mean: the GGUF specification, and ``gguf.quants`` of the package that reads such files, which this is
tested against.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from racer.core.kept_weights import GroupedNumbers
from racer.kernels.native.few_bits import Format

Bytes = NDArray[np.uint8]


def _halves(blocks: Bytes, start: int) -> NDArray[np.float32]:
    """One float16 of each block: ``[blocks, 1]``."""
    return np.ascontiguousarray(blocks[:, start : start + 2]).view(np.float16).astype(np.float32)


def _nibbles(packed: Bytes) -> Bytes:
    """``[blocks, n]`` bytes to ``[blocks, 2 n]`` numbers: first the low halves, then the high ones."""
    return np.concatenate([packed & 15, packed >> 4], 1)


def _fifth_bits(blocks: Bytes, start: int) -> Bytes:
    """The fifth bits of 32 numbers, in their place."""
    bits = np.unpackbits(np.ascontiguousarray(blocks[:, start : start + 4]), axis=1, bitorder="little")
    return (bits << 4).astype(np.uint8)


def _sixes(packed: Bytes) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Eight scales and eight minima of 6 bits in 12 bytes: ``[blocks, 8]`` each."""
    first, second, third = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = np.concatenate([first & 63, (third & 15) | ((first >> 6) << 4)], 1)
    minima = np.concatenate([second & 63, (third >> 4) | ((second >> 6) << 4)], 1)
    return scales.astype(np.float32), minima.astype(np.float32)


Parts = tuple[Bytes, NDArray[np.float32], NDArray[np.float32] | None]
"""Numbers, scales and least numbers of each block."""


def _q4_0(blocks: Bytes) -> Parts:
    return _nibbles(blocks[:, 2:]), _halves(blocks, 0), None


def _q4_1(blocks: Bytes) -> Parts:
    return _nibbles(blocks[:, 4:]), _halves(blocks, 0), _halves(blocks, 2)


def _q5_0(blocks: Bytes) -> Parts:
    return _nibbles(blocks[:, 6:]) | _fifth_bits(blocks, 2), _halves(blocks, 0), None


def _q5_1(blocks: Bytes) -> Parts:
    return _nibbles(blocks[:, 8:]) | _fifth_bits(blocks, 4), _halves(blocks, 0), _halves(blocks, 2)


def _q8_0(blocks: Bytes) -> Parts:
    return blocks[:, 2:] ^ np.uint8(128), _halves(blocks, 0), None  # two's complement, 128 added


def _k_scales(blocks: Bytes) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    scales, minima = _sixes(blocks[:, 4:16])
    return scales * _halves(blocks, 0), -(minima * _halves(blocks, 2))


def _q4_k(blocks: Bytes) -> Parts:
    packed = blocks[:, 16:].reshape(-1, 4, 32)
    numbers = np.stack([packed & 15, packed >> 4], 2).reshape(len(blocks), 256)
    return numbers, *_k_scales(blocks)


def _q5_k(blocks: Bytes) -> Parts:
    high, packed = blocks[:, 16:48], blocks[:, 48:].reshape(-1, 4, 32)
    low = np.stack([packed & 15, packed >> 4], 2).reshape(len(blocks), 8, 32)
    bits = (high[:, None, :] >> np.arange(8, dtype=np.uint8)[:, None]) & 1
    return (low | (bits << 4)).reshape(len(blocks), 256), *_k_scales(blocks)


def _q6_k(blocks: Bytes) -> Parts:
    low, high = blocks[:, :128].reshape(-1, 2, 2, 32), blocks[:, 128:192].reshape(-1, 2, 1, 32)
    four = np.concatenate([low & 15, low >> 4], 2)  # [blocks, half, 4, 32]
    two = (high >> (2 * np.arange(4, dtype=np.uint8))[:, None]) & 3
    scales = np.ascontiguousarray(blocks[:, 192:208]).view(np.int8).astype(np.float32)
    return (four | (two << 4)).reshape(len(blocks), 256), scales * _halves(blocks, 208), None


TYPES: dict[str, tuple[Format, int, int, Callable[[Bytes], Parts]]] = {
    "Q4_0": (Format(4, 32, 8, False, True), 32, 18, _q4_0),
    "Q4_1": (Format(4, 32, 0, True, True), 32, 20, _q4_1),
    "Q5_0": (Format(5, 32, 16, False, True), 32, 22, _q5_0),
    "Q5_1": (Format(5, 32, 0, True, True), 32, 24, _q5_1),
    "Q8_0": (Format(8, 32, 128, False, True), 32, 34, _q8_0),
    "Q4_K": (Format(4, 32, 0, True, False), 256, 144, _q4_k),
    "Q5_K": (Format(5, 32, 0, True, False), 256, 176, _q5_k),
    "Q6_K": (Format(6, 16, 32, False, False), 256, 210, _q6_k),
}
"""What each type is kept as, numbers and bytes of a block, and how a block is read."""


def grouped(kind: str, data: Any) -> GroupedNumbers | None:
    """A tensor of type ``kind``, ``data [out, bytes]``; None for types that are not kept."""
    if kind not in TYPES:
        return None
    kept, numbers, size, read = TYPES[kind]
    rows = np.asarray(data, np.uint8)
    blocks = rows.reshape(-1, size)
    values, scale, least = read(blocks)
    inputs = rows.shape[1] // size * numbers

    def by_row(part: NDArray[Any]) -> NDArray[Any]:
        return part.reshape(len(rows), -1)

    lowest = None if least is None else by_row(least)
    whole = GroupedNumbers(kept, by_row(values), by_row(scale), lowest)
    assert whole.numbers.shape == (len(rows), inputs)
    return whole
