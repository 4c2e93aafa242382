"""Copy-logit tree (RACER, arXiv 2604.14885): what the model last predicted after a token, it will predict again."""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from racer.errors import ConfigError
from racer.step.draft_tree import DraftTree
from racer.step.request import Request
from racer.step.tree_builder import TreeBuilder
from racer.step.verdict import Verdict
from racer.step.view import Needs, StepView
from racer.strategies.base import Drafter


def child_breadth(breadth: int, child: int, is_root: bool) -> int:
    """Breadth that child number ``child`` inherits: halved per rank, and once more below the root's children."""
    return max(1, breadth >> (child + (not is_root)))


class Logits(Drafter):
    """Keeps, for each token, the top-k next tokens of the latest scored position that held it.

    Positions of rejected nodes and of the prompt count too. Memory: ``4 * top_k`` bytes per token of the vocabulary.

    :param top_k: next tokens kept, and the root's breadth.
    :raises ConfigError: ``top_k`` below 1.
    """

    name = "logits"

    def __init__(self, top_k: int = 8) -> None:
        if top_k < 1:
            raise ConfigError(f"top_k must be at least 1, not {top_k}")
        self.top_k = top_k
        self.needs = Needs(top_k=top_k, prompt=Needs.ALL)
        self.table: NDArray[np.int32] = np.empty((0, top_k), dtype=np.int32)
        """``[V, top_k]``; rows of tokens that were never scored hold -1."""

    def grow(self, request: Request, tree: TreeBuilder) -> None:
        frontier = deque([(0, request.tokens[-1], self.top_k)])
        while frontier:
            node, token, breadth = frontier.popleft()
            for rank, guess in enumerate(self._top_k(token)[:breadth]):
                child = tree.add(node, guess)
                if child is None:
                    return
                frontier.append((child, guess, child_breadth(breadth, rank, is_root=node == 0)))

    def _top_k(self, token: int) -> list[int]:
        """The top k next tokens after ``token``, best first; empty if it was never scored."""
        ids: list[int] = self.table[token].tolist() if token < len(self.table) else []
        return [guess for guess in ids if 0 <= guess < len(self.table)]  # a head may have more rows than the embedding

    def observe(self, view: StepView, tree: DraftTree, verdict: Verdict) -> None:
        host = verdict.host
        assert host is not None
        if len(self.table) != view.vocab_size:
            self.table = np.full((view.vocab_size, self.top_k), -1, dtype=np.int32)
        scored = (np.arange(host.tokens.shape[1]) < host.count[:, None]) & np.array(view.active)[:, None]
        ids = host.top_ids[:, :, : self.top_k]
        self.table[host.tokens[scored], : ids.shape[2]] = ids[
            scored
        ]  # of equal tokens numpy keeps the last, the deepest
