"""What top-k, top-p and min-p keep, found without sorting the vocabulary.

They keep what the processors of transformers keep, by the same float32 arithmetic. Two things remain. Probabilities
are added up in another order, which may move the edge of top-p by a last digit of float32. And of *equal* scores at
the edge, as many are kept as there, but which ones transformers leaves to an unstable sort; here the highest ids stay.

On the host a row's ids are wanted: there are few, and all that follows is done for them alone. On an accelerator how
many there are is not known to the host, so there all rows get a mask (:func:`top_p_mask`); of the processors of
transformers only top-p sorts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from racer.kernels import vocab_search

WHOLE = 2.0**60
"""What all probabilities of a row weigh together, where they are added up as whole numbers."""
SURELY = 1e-3
"""With more mass than this top-p keeps a token for sure, in whatever order float32 adds up."""


def top_k(scores: Tensor, k: int) -> Tensor:
    """Ids of the ``k`` best of ``scores [V]`` and of all that equal the last of them: ``[K]``, ascending."""
    worst = vocab_search.top(scores[None], k)[0][0, -1]
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

    The edge is found by its bits, eight at a time: a histogram of the probabilities over the next bits says which ones
    the edge has. Probabilities are added up as whole numbers, in any order the same.
    """
    weights = (scores.softmax(-1).double() * WHOLE).ceil().long()  # what is possible at all weighs something
    places = _place(scores)
    edge, below = torch.zeros_like(places[:, :1]), torch.zeros_like(places[:, :1])  # the latter: weight under the edge
    for shift in (24, 16, 8, 0):
        digit = (places >> shift) & 0xFF
        inside = torch.where(places >> (shift + 8) == edge, weights, 0)
        up_to = below + weights.new_zeros(len(scores), 256).scatter_add_(1, digit, inside).cumsum(1)
        found = _dropped(up_to, mass).sum(1, keepdim=True).clamp(max=255)
        below = torch.where(found > 0, up_to.gather(1, (found - 1).clamp(min=0)), below)
        edge = (edge << 8) | found
    equal = places == edge
    share = torch.where(equal, weights, 0).amax(-1, keepdim=True)
    dropped = (places < edge) | (equal & _dropped(below + equal.cumsum(-1) * share, mass))
    return ~dropped if least <= 1 and mass > SURELY else ~dropped | _best_mask(scores, least)


def _dropped(up_to: Tensor, mass: float) -> Tensor:
    """Whether the tokens up to one of them weigh so little that top-p drops it."""
    return (up_to.double() / WHOLE).float() <= 1 - mass


def _best_mask(scores: Tensor, count: int) -> Tensor:
    """``[M, V]`` bool: the ``count`` best of each row, of equal ones those of the highest ids."""
    worst = scores.topk(min(count, scores.shape[-1])).values[:, -1:]
    better, equal = scores > worst, scores == worst
    room = count - better.sum(-1, keepdim=True)
    behind = equal.sum(-1, keepdim=True) - equal.cumsum(-1)
    return better | (equal & (behind < room))


def _place(scores: Tensor) -> Tensor:
    """Where each float32 stands among all of them, from 0 to 2**32."""
    bits = (scores + 0.0).view(torch.int32)  # -0.0 becomes 0.0, which it equals
    return torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).long() + 2**31


def _ids(kept: Tensor) -> Tensor:
    return kept.nonzero()[:, 0]
