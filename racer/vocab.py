"""Operations over the vocabulary axis, where a step spends what the model leaves: best tokens, and noise by counter."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence

import torch
from torch import Tensor

BLOCK = 64
"""Scores per block of the two-level search; measured on a 2-core CPU: 64 rows of 49k bf16 scores cost 1.2 ms
where ``topk`` takes 3.5 and ``argmax`` 5.7."""
GROUP = 2**22
"""Scores that are worked on at a time on a CPU; bounds what is kept for it, 16 MiB for each use."""

_MASK32 = 0xFFFFFFFF


def wide(logits: Tensor) -> Tensor:
    """On a CPU in float32, once for all that follows: its reductions of bf16 are not vectorised. Else as they are."""
    half = logits.dtype in (torch.bfloat16, torch.float16)
    return logits.float() if half and logits.device.type == "cpu" else logits


def best(scores: Tensor) -> Tensor:
    """Index of the largest score, the first one among equals: ``[M, V] -> [M]``, as ``argmax`` gives it."""
    if scores.device.type != "cpu" or scores.shape[0] == 1:
        return scores.float().argmax(-1) if scores.dtype in (torch.bfloat16, torch.float16) else scores.argmax(-1)
    return torch.cat([_best(group) for group in _groups(scores)])


def _best(scores: Tensor) -> Tensor:
    blocks = _blocks(scores)
    first = blocks.amax(-1).argmax(-1)
    inside = blocks[torch.arange(len(first)), first].argmax(-1)
    return first * BLOCK + inside


def top(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` largest scores and their indices, best first: ``[M, V] -> [M, k], [M, k]``. ``k`` is cut to V."""
    k = min(k, scores.shape[-1])
    if scores.device.type != "cpu" or scores.shape[-1] < 4 * BLOCK * k:
        values, ids = scores.topk(k)
        return values, ids
    found = [_top(group, k) for group in _groups(scores)]
    return torch.cat([values for values, _ in found]), torch.cat([ids for _, ids in found])


def _top(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    blocks = _blocks(scores)
    # the k best scores lie in at most k blocks, those with the k largest maxima
    chosen = blocks.amax(-1).topk(k).indices  # [M, k]
    pool = blocks.gather(1, chosen[:, :, None].expand(-1, -1, BLOCK)).flatten(1)
    values, at = pool.topk(k)
    return values, chosen.gather(1, at // BLOCK) * BLOCK + at % BLOCK


def probabilities(logits: Tensor, values: Tensor, temperature: float = 1.0) -> Tensor:
    """Softmax of ``logits [M, V] / temperature`` at the ``k`` best of them, ``values [M, k]``, best first; float32."""
    peak = torch.cat([_peak(group, temperature) for group in _groups(logits)])
    return peak * ((values.float() - values[:, :1].float()) / temperature).exp()


def _peak(logits: Tensor, temperature: float) -> Tensor:
    """``[M, 1]`` the best token's probability: softmax is done when a log-sum-exp has only found its maximum."""
    if logits.device.type != "cpu":
        return (logits.float() / temperature).softmax(-1).amax(-1, keepdim=True)
    scores = _wide(logits)
    if temperature != 1:
        scores = torch.div(scores, temperature, out=_kept.room("scaled", scores.shape, scores.dtype))
    shares = torch.softmax(scores, -1, out=_kept.room("shares", scores.shape, scores.dtype))
    return shares.amax(-1, keepdim=True).float()


# -- large temporaries on a CPU -------------------------------------------------------------------------------------


def _groups(scores: Tensor) -> tuple[Tensor, ...]:
    """``scores [M, V]`` by rows: on a CPU in parts of about :data:`GROUP` scores, else as one."""
    if scores.device.type != "cpu":
        return (scores,)
    return scores.chunk(-(-scores.numel() // GROUP))


def _blocks(scores: Tensor) -> Tensor:
    """``[M, V] -> [M, V / BLOCK, BLOCK]`` in float32 (its maxima are vectorised, those of bf16 are not)."""
    return _wide(scores, -scores.shape[1] % BLOCK).view(len(scores), -1, BLOCK)


def _wide(scores: Tensor, spare: int = 0) -> Tensor:
    """``[M, V + spare]`` in float32 or better, filled up with minus infinity; gone with the next call."""
    exact = scores.dtype in (torch.float32, torch.float64)
    if exact and not spare:
        return scores.contiguous()
    rows, size = scores.shape
    room = _kept.room("wide", (rows, size + spare), scores.dtype if exact else torch.float32)
    room[:, :size] = scores
    if spare:
        room[:, size:] = -torch.inf
    return room


class _Kept(threading.local):
    """Room that is used again and again. The C library gives megabytes back to the system and asks for them anew, which
    cost 3,000 page faults, 8 ms, in a step of 64 nodes."""

    def __init__(self) -> None:
        self._rooms: dict[tuple[str, torch.dtype], Tensor] = {}

    def room(self, use: str, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Unset numbers of this shape, overwritten when the same use asks again."""
        size, room = math.prod(shape), self._rooms.get((use, dtype))
        if room is None or len(room) < size:
            with torch.inference_mode(False):  # room made in inference mode could not be written outside of it
                room = self._rooms[use, dtype] = torch.empty(max(size, GROUP), dtype=dtype, device="cpu")
        return room[:size].view(*shape)


_kept = _Kept()


# -- noise ----------------------------------------------------------------------------------------------------------


def gumbel(seeds: Tensor, positions: Tensor, vocab_size: int) -> Tensor:
    """Standard Gumbel noise ``[M, V]`` float32, a function of (seed, position, token id) alone.

    A counter-based generator: no state, any device, any order of evaluation, so a token draws the same noise whether
    its position is scored in a tree or alone. ``argmax(logits + noise)`` is then an exact sample from the softmax
    (Gumbel-max trick). 32 bits per draw.

    :param seeds: ``[M]`` int64.
    :param positions: ``[M]`` int64: absolute position of the token to draw, padding not counted.
    """
    low, high = seeds & _MASK32, (seeds >> 32) & _MASK32
    first = _mix(_mix(_mix(low ^ 0x9E3779B9) ^ high) ^ (positions & _MASK32))
    second = _mix(first ^ 0x85EBCA6B)
    tokens = torch.arange(vocab_size, device=seeds.device)
    bits = _mix(_mix((tokens + first[:, None]) & _MASK32) ^ second[:, None])
    uniform = (bits.double() + 0.5) / 2**32
    return -(-uniform.log()).log().float()


def _mix(x: Tensor) -> Tensor:
    """A 32-bit finaliser (xor-shift, multiply) in int64 arithmetic: bijective, full avalanche."""
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & _MASK32
    x = ((x ^ (x >> 15)) * 0x846CA68B) & _MASK32
    return x ^ (x >> 16)
