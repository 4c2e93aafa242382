"""Searches over scores, row by row, as machine code for CPUs.

A float's bits, read as a whole number with a sign, are in the float's own order. So the search for the largest
compares whole numbers, 16 bits wide for bf16, which compilers turn into the widest instructions that there are; and a
softmax sums up polynomials, where they would call ``exp`` number by number.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from racer.kernels.float_bits import BLOCK
from racer.kernels.jit import Number, compiled

CHUNK = 1024
"""Scores that are summed up in float32."""
POWER_OF_TWO = tuple(np.float32(c) for c in (1.0000001, 0.693121, 0.24022107, 0.055922035, 0.009676037))
"""A polynomial for ``2**x`` from -0.5 to 0.5, right to 4e-6 of it (interpolated at Chebyshev's nodes)."""

LEAST_LOG = np.float32(-126)
"""Of the smallest normal float32, to base 2."""


@compiled
def find_best(
    bits: NDArray[Any], limits: NDArray[Any], inside: NDArray[Any], maxima: NDArray[Any], ids: NDArray[np.int64]
) -> None:
    """Places ``ids [M, k]`` of each row's k largest scores, best first; the first one among equals, a NaN above all.

    Nothing is written but what a block holds: after a forward pass, memory to write a whole row to is in no cache.

    :param bits: ``[M, V]`` of the scores, as whole numbers with a sign; V is at least k, and k at least 1.
    :param limits: the largest whole number of that type, and infinity's bits.
    :param inside: ``[BLOCK]`` to work in, of the same type.
    :param maxima: to work in, too: one for each block, the last of which may be a part.
    """
    for row in range(len(bits)):
        _find_in_row(bits[row], limits, inside, maxima, ids[row])


@compiled
def _find_in_row(
    bits: NDArray[Any], limits: NDArray[Any], inside: NDArray[Any], maxima: NDArray[Any], ids: NDArray[np.int64]
) -> None:
    blocks = len(bits) // BLOCK
    for block in range(blocks):  # of a known length, for the compiler
        maxima[block] = _largest_key(bits[block * BLOCK :], limits, BLOCK)
    if blocks < len(maxima):
        maxima[blocks] = _largest_key(bits[blocks * BLOCK :], limits, len(bits) - blocks * BLOCK)
    for rank in range(len(ids)):
        block = _first(maxima, _largest(maxima))
        start = block * BLOCK
        for place in range(BLOCK):
            inside[place] = _key(bits[start + place], limits) if start + place < len(bits) else -limits[0] - 1
        for earlier in range(rank):
            if ids[earlier] // BLOCK == block:
                inside[ids[earlier] - start] = -limits[0] - 1
        place = _first(inside, maxima[block])
        ids[rank] = start + place
        inside[place] = -limits[0] - 1
        maxima[block] = _largest(inside)


@compiled
def _key(bits: Number, limits: NDArray[Any]) -> Number:
    """A whole number in the floats' order."""
    number, most = limits.dtype.type, limits[0]
    magnitude = number(bits & most)
    key = magnitude if bits >= 0 else number(-magnitude)  # of -0.0 too: it is equal to 0.0
    return key if magnitude <= limits[1] else most


@compiled
def _largest_key(bits: NDArray[Any], limits: NDArray[Any], count: int) -> Number:
    largest = limits.dtype.type(-limits[0])
    for place in range(count):
        key = _key(bits[place], limits)
        largest = key if key > largest else largest
    return largest


@compiled
def _largest(keys: NDArray[Any]) -> Number:
    largest = keys[0]
    for place in range(len(keys)):
        largest = keys[place] if keys[place] > largest else largest
    return largest


@compiled
def _first(keys: NDArray[Any], wanted: Number) -> int:
    """The place of the first key that is ``wanted``."""
    for place in range(len(keys)):
        if keys[place] == wanted:
            return place
    return 0


def _find_likely(
    bits: NDArray[Any],
    limits: NDArray[Any],
    inside: NDArray[Any],
    maxima: NDArray[Any],
    sharpness: np.float32,
    ids: NDArray[np.int64],
    probs: NDArray[np.float32],
) -> None:
    """What :func:`find_best` finds, and the softmax ``probs [M, k]`` there; NaN where that is no number.

    :param bits: ``[M, V]`` of the scores: int16 of bf16, or int32 of float32.
    :param sharpness: log2(e) / temperature.
    """
    half = bits.itemsize == 2
    for row in range(len(bits)):
        _find_in_row(bits[row], limits, inside, maxima, ids[row])
        best, total = _score(bits[row, ids[row, 0]], half), 0.0
        for start in range(0, bits.shape[1], CHUNK):
            piece = bits[row, start : start + CHUNK]
            part: Number = np.float32(0)
            for place in range(len(piece)):
                part += _power_of_two((_score(piece[place], half) - best) * sharpness)
            total += part
        for rank in range(ids.shape[1]):
            log = (_score(bits[row, ids[row, rank]], half) - best) * sharpness
            share = _power_of_two(log) / total if log > LEAST_LOG else 0.0
            probs[row, rank] = share if total >= 0.5 else np.nan


@compiled
def _score(bits: Number, half: bool) -> Number:
    """The float32 of these bits, or of this upper half of them."""
    wide = np.int32(bits)
    return np.int32(wide << np.int32(16) if half else wide).view(np.float32)


def _power(log: Number) -> Number:
    """``2**log``, at least 2**-126."""
    c = POWER_OF_TWO
    log = log if log > LEAST_LOG else LEAST_LOG  # NaN neither
    whole = np.int32(log - np.float32(0.5))
    x = log - np.float32(whole)
    power = np.float32(c[0] + x * (c[1] + x * (c[2] + x * (c[3] + x * c[4]))))
    return np.int32(power.view(np.int32) + (whole << np.int32(23))).view(np.float32)  # times 2**whole, by the exponent


NUMBERS_MAY_BE_NONE = {"reassoc", "contract", "nsz", "arcp"}
"""Liberties with floats, among which there may be NaNs and infinities."""
_power_of_two = compiled(_power, fastmath=NUMBERS_MAY_BE_NONE)
find_likely = compiled(_find_likely, fastmath=NUMBERS_MAY_BE_NONE)
