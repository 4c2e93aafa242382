"""How a token is drawn, wherever it is."""

from __future__ import annotations

import torch
from torch import Tensor

from racer.kernels.gumbel import gumbel
from racer.step.verdict import NO_TOKEN


def sampled(scores: Tensor, seeds: Tensor, positions: Tensor) -> Tensor:
    """``[M]`` tokens drawn from ``scores [M, V]``, or :data:`NO_TOKEN`; nobody waits for the device."""
    tokens = (scores + gumbel(seeds, positions, scores.shape[1])).argmax(-1)
    # NaNs and infinities are larger than whatever noise makes of the rest
    drawn = scores.gather(1, tokens[:, None])[:, 0].isfinite()
    return torch.where(drawn, tokens, NO_TOKEN)
