"""What top-k, top-p and min-p keep of one row, found without sorting the vocabulary.

They keep what the processors of transformers keep, by the same float32 arithmetic. Two things remain. Probabilities
are added up in another order, which may move the edge of top-p by a last digit of float32. And of *equal* scores at
the edge, as many are kept as there, but which ones transformers leaves to an unstable sort; here the highest ids stay.
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


def _ids(kept: Tensor) -> Tensor:
    return kept.nonzero()[:, 0]
