"""The best next tokens of every node, which drafters are shown."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from racer.kernels import vocab_search
from racer.step.view import LogitsPipeline, Needs


class TopTokens(NamedTuple):
    """What the model thinks comes next, as far as some drafter needs it."""

    ids: Tensor | None = None
    """``[B, N, k]`` the best next tokens of all nodes."""
    probs: Tensor | None = None
    """``[B, N, k]`` their probabilities."""

    def head(self, width: int) -> TopTokens:
        """Of the first ``width`` nodes."""
        return TopTokens(*(None if part is None else part[:, :width] for part in self))


def top_tokens(needs: Needs, pipeline: LogitsPipeline, do_sample: bool, logits: Tensor) -> TopTokens:
    """Of all nodes, by their ``logits [B, N, V]``."""
    batch, width, size = logits.shape
    if not needs.top_k:
        return TopTokens()
    flat = logits.reshape(-1, size)
    if not needs.probs:
        return TopTokens(vocab_search.top(flat, needs.top_k)[1].view(batch, width, -1))
    ids, probs = (pipeline.likely if do_sample else vocab_search.likely)(flat, needs.top_k)
    return TopTokens(ids.view(batch, width, -1), probs.view(batch, width, -1))


def argmax_of(top: TopTokens, needs: Needs, logits: Tensor) -> Tensor | None:
    """``[B, N]`` the argmax of each node's ``logits``, where it was found on the way to ``top``; else None."""
    found = top.ids is not None and vocab_search.first_is_best(logits, needs.top_k)
    return top.ids[..., 0] if top.ids is not None and found else None
