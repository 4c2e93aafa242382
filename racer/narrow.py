"""What top-k, top-p and min-p keep, found without sorting the vocabulary.

They keep what the processors of transformers keep, by the same float32 arithmetic. Two things remain. Probabilities
are added up in another order, which may move the edge of top-p by a last digit of float32. And of *equal* scores at
the edge, as many are kept as there, but which ones transformers leaves to an unstable sort; here the highest ids stay.

On the host a row's ids are wanted: there are few, and all that follows is done for them alone. On an accelerator how
many there are is not known to the host, so there all rows get a mask (:func:`top_p_mask`, :func:`min_p_mask`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from racer import vocab


def top_k(scores: Tensor, k: int) -> Tensor:
    """Ids of the ``k`` best of ``scores [V]`` and of all that equal the last of them: ``[K]``, ascending."""
    worst = vocab.top(scores[None], k)[0][0, -1]
    return _ids(~(scores < worst))


def top_p(scores: Tensor, mass: float, least: int = 1) -> Tensor:
    """Ids of the fewest best of ``scores [V]`` whose softmax sums to ``mass``, at least ``least``: ``[K]``, ascending.

    Time goes with V, not with V log V, unless nearly all tokens are about equally likely.
    """
    probs = scores.softmax(-1)
    # tokens of at most (1 - mass) / V weigh at most 1 - mass together, so none of them is kept; 0.999 is for rounding
    ids = _ids(probs > 0.999 * (1 - mass) / len(probs))
    if len(ids) < least:
        ids = torch.arange(len(probs), device=probs.device)
    order = scores[ids].sort(stable=True).indices  # worst first, as transformers adds them up
    likely = probs[ids[order]]
    probs[ids] = 0
    behind = probs.sum(dtype=torch.float64)
    up_to = (behind + likely.cumsum(-1, dtype=torch.float64)).float()
    kept = ~(up_to <= 1 - mass)
    kept[-least:] = True
    return ids[order[kept].sort().values]


def min_p(scores: Tensor, share: float, least: int = 1) -> Tensor:
    """Ids of ``scores [V]`` at least ``share`` times as likely as the best, at least ``least``: ``[K]``, ascending."""
    probs = scores.softmax(-1)
    kept = ~(probs < share * probs.amax())
    if least > 1:  # the best one is kept anyway
        kept[probs.topk(min(least, len(probs))).indices] = True
    return _ids(kept)


def top_p_mask(scores: Tensor, mass: float, least: int = 1) -> Tensor:
    """``[M, V]`` bool: what :func:`top_p` keeps of each row of ``scores [M, V]`` (float32), without asking the host.

    The edge is found by bisection over all floats: 32 sums of the probabilities below a score, where a sort of 152k
    scores moves scores and places in several passes of scattered writes.
    """
    probs = scores.softmax(-1)

    def mass_of(some: Tensor) -> Tensor:
        """``[M, 1]`` float64: what ``some [M, V]`` weigh together."""
        return torch.where(some, probs, 0).sum(-1, keepdim=True, dtype=torch.float64)

    high = _mirrored(scores.amax(-1, keepdim=True).view(torch.int32)).long()
    low = torch.full_like(high, -(2**31))
    for _ in range(32):  # the scores up to low weigh at most 1 - mass, those up to high more
        middle = (low + high) >> 1
        few = mass_of(scores <= _float_of(middle)).float() <= 1 - mass
        low, high = torch.where(few, middle, low), torch.where(few, high, middle)
    edge = _float_of(high)
    equal = scores == edge
    share = torch.where(equal, probs, 0).amax(-1, keepdim=True)
    up_to = (mass_of(scores < edge) + equal.cumsum(-1, dtype=torch.int32) * share.double()).float()
    return ~(scores < edge) & ~(equal & (up_to <= 1 - mass)) | _best_mask(scores, least)


def min_p_mask(scores: Tensor, share: float, least: int = 1) -> Tensor:
    """``[M, V]`` bool: what :func:`min_p` keeps of each row of ``scores [M, V]``, without asking the host."""
    probs = scores.softmax(-1)
    return ~(probs < share * probs.amax(-1, keepdim=True)) | _best_mask(scores, least)


def _best_mask(scores: Tensor, count: int) -> Tensor:
    """``[M, V]`` bool: the ``count`` best of each row, of equal ones those of the highest ids."""
    worst = scores.topk(min(count, scores.shape[-1])).values[:, -1:]
    better, equal = scores > worst, scores == worst
    room = count - better.sum(-1, keepdim=True)
    behind = equal.sum(-1, keepdim=True) - equal.cumsum(-1)
    return better | (equal & (behind < room))


def _float_of(order: Tensor) -> Tensor:
    """The float32 at this place among all float32."""
    return _mirrored(order.int()).view(torch.float32)


def _mirrored(bits: Tensor) -> Tensor:
    """A float32's bits to its place among all of them, and back: those of negative ones run the other way."""
    return torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


def _ids(kept: Tensor) -> Tensor:
    return kept.nonzero()[:, 0]
