"""Searches over rows of scores in one pass each, as machine code for CPUs.

A float's bits, read as a whole number with a sign, are in the float's own order. So the search for the largest
compares whole numbers, 16 bits wide for bf16, which compilers turn into the widest instructions that there are; and a
softmax sums up polynomials, where they would call ``exp`` number by number.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from racer.compiled import Number, compiled
from racer.vocab import BLOCK

CHUNK = 1024
"""Scores that are summed up in float32."""
POWER_OF_TWO = tuple(np.float32(c) for c in (1.0000001, 0.693121, 0.24022107, 0.055922035, 0.009676037))
"""A polynomial for ``2**x`` from -0.5 to 0.5, right to 4e-6 of it (interpolated at Chebyshev's nodes)."""


@compiled
def find_best(
    bits: NDArray[Any], limits: NDArray[Any], keys: NDArray[Any], maxima: NDArray[Any], ids: NDArray[np.int64]
) -> None:
    """Places ``ids [M, k]`` of each row's k largest scores, best first; the first one among equals, a NaN above all.

    :param bits: ``[M, V]`` of the scores, as whole numbers with a sign.
    :param limits: the largest whole number of that type, and infinity's bits.
    :param keys: to work in, of the same type: V, filled up to whole blocks with the smallest number there is.
    :param maxima: to work in, too: one for each block.
    """
    blocks = bits.shape[1] // BLOCK
    for row in range(len(bits)):
        for block in range(blocks):  # of a known length, for the compiler
            maxima[block] = _order(bits[row, block * BLOCK :], keys[block * BLOCK :], limits, BLOCK)
        if blocks < len(maxima):
            maxima[blocks] = _order(
                bits[row, blocks * BLOCK :], keys[blocks * BLOCK :], limits, bits.shape[1] - blocks * BLOCK
            )
        for rank in range(ids.shape[1]):
            block = _first(maxima, _largest(maxima))
            inside = keys[block * BLOCK : block * BLOCK + BLOCK]
            place = _first(inside, maxima[block])
            ids[row, rank] = block * BLOCK + place
            inside[place] = -limits[0] - 1
            maxima[block] = _largest(inside)


@compiled
def _order(bits: NDArray[Any], keys: NDArray[Any], limits: NDArray[Any], count: int) -> Number:
    """Turn bits into numbers in the floats' order; the largest one."""
    number, most, infinite = bits.dtype.type, limits[0], limits[1]
    largest = number(-most)
    for place in range(count):
        magnitude = number(bits[place] & most)
        key = magnitude if bits[place] >= 0 else number(-magnitude)  # of -0.0 too: it is equal to 0.0
        key = key if magnitude <= infinite else most
        keys[place] = key
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


def _find_peaks(
    bits: NDArray[Any], best: NDArray[np.float32], sharpness: np.float32, peaks: NDArray[np.float32]
) -> None:
    """The softmax ``peaks [M]`` of each row at its largest score; NaN where that is no number.

    :param bits: ``[M, V]`` of the scores: int16 of bf16, or int32 of float32.
    :param best: ``[M]`` the largest scores.
    :param sharpness: log2(e) / temperature.
    """
    half, c = bits.itemsize == 2, POWER_OF_TWO
    for row in range(len(bits)):
        total = 0.0
        for start in range(0, bits.shape[1], CHUNK):
            piece = bits[row, start : start + CHUNK]
            part: Number = np.float32(0)
            for place in range(len(piece)):
                wide = np.int32(piece[place])
                score = np.int32(wide << np.int32(16) if half else wide).view(np.float32)
                log = (score - best[row]) * sharpness
                log = log if log > np.float32(-126) else np.float32(-126)  # below are no normal floats; NaN neither
                whole = np.int32(log - np.float32(0.5))
                x = log - np.float32(whole)
                power = np.float32(c[0] + x * (c[1] + x * (c[2] + x * (c[3] + x * c[4]))))
                # times 2 ** whole, by what is added to the exponent's bits
                part += np.int32(power.view(np.int32) + (whole << np.int32(23))).view(np.float32)
            total += part
        peaks[row] = 1 / total if total >= 0.5 else np.nan


find_peaks = compiled(_find_peaks, fastmath={"reassoc", "contract", "nsz", "arcp"})  # there may be NaNs
