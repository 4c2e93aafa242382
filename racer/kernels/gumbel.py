"""Noise by counter: what a token draws at a position is a hash, so nothing has to be kept or drawn in order."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

_MASK32 = 0xFFFFFFFF
_FACTORS = 0x7FEB352D, 0x846CA68B
Word = TypeVar("Word", int, Tensor)
"""Unsigned 32-bit numbers: one, or int64 tensors of them."""


def gumbel(seeds: Tensor, positions: Tensor, vocab_size: int) -> Tensor:
    """Standard Gumbel noise ``[M, V]`` float32, a function of (seed, position, token id) alone.

    A counter-based generator: no state, any device, any order of evaluation, so a token draws the same noise whether
    its position is scored in a tree or alone. ``argmax(logits + noise)`` is then an exact sample from the softmax
    (Gumbel-max trick). 32 bits per draw.

    :param seeds: ``[M]`` int64.
    :param positions: ``[M]`` int64: absolute position of the token to draw, padding not counted.
    """
    first, second = (key.int()[:, None] for key in _keys(seeds, positions))
    return _draw(torch.arange(vocab_size, dtype=torch.int32, device=seeds.device), first, second)


def gumbel_at(seed: int, position: int, tokens: Tensor) -> Tensor:
    """``[K]`` the noise of the ids ``tokens [K]`` alone, bit for bit what :func:`gumbel` gives them."""
    return _draw(tokens.int(), *_keys(seed, position))


def _keys(seed: Word, position: Word) -> tuple[Word, Word]:
    """Two signed 32-bit numbers for all that the noise depends on but the token."""
    low, high = seed & _MASK32, (seed >> 32) & _MASK32
    first = _mix(_mix(_mix(low ^ 0x9E3779B9) ^ high) ^ (position & _MASK32))
    second = _mix(first ^ 0x85EBCA6B)
    return (first ^ 2**31) - 2**31, (second ^ 2**31) - 2**31


def _draw(tokens: Tensor, first: int | Tensor, second: int | Tensor) -> Tensor:
    """Noise of int32 ``tokens`` under two keys, which are numbers or broadcast."""
    bits = _mix_signed(_mix_signed(tokens + first) ^ second)
    # its sign bit flipped, a signed 32-bit number is the unsigned one less 2^31
    uniform = (bits.bitwise_xor_(-(2**31)).double() + (2**31 + 0.5)).div_(2**32)
    return uniform.log_().neg_().log_().neg_().float()


def _mix(x: Word) -> Word:
    """A 32-bit finaliser (xor-shift, multiply) in int64 arithmetic: bijective, full avalanche."""
    x = ((x ^ (x >> 16)) * _FACTORS[0]) & _MASK32
    x = ((x ^ (x >> 15)) * _FACTORS[1]) & _MASK32
    return x ^ (x >> 16)


def _mix_signed(x: Tensor) -> Tensor:
    """The same in place on int32, which wraps: half the memory to move, and no masks after the products."""
    x.bitwise_xor_((x >> 16).bitwise_and_(0xFFFF)).mul_(_FACTORS[0])
    x.bitwise_xor_((x >> 15).bitwise_and_(0x1FFFF)).mul_(_FACTORS[1] - 2**32)
    return x.bitwise_xor_((x >> 16).bitwise_and_(0xFFFF))
