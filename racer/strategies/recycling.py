"""Token recycling (Luo et al., arXiv 2408.08696): a tree of fixed shape over a top-k table.

All of it lives on the model's device: the top k next tokens last predicted after each token, and the shape's columns
level by level.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left

import torch
from torch import Tensor

from racer.errors import ConfigError
from racer.step.draft_tree import DraftTree
from racer.step.verdict import Verdict
from racer.step.view import Needs
from racer.strategies.device import DeviceDrafter

LARGEST = 512
"""Nodes of the largest tree; later ones would be accepted once in thousands of steps."""
FIRST, OTHERS = 0.41, 0.09
"""How often a token is followed by the first, and by the second of those that the model last predicted after it; by
the r-th other one r times less often (measured on the package's questions with the embedded model)."""


def shape(top_k: int, size: int) -> tuple[list[int], list[int]]:
    """Parents and ranks of the tree of most expected accepted nodes, if every token is followed by the r-th of its
    top k (``rank`` r, from 0) as often as any other; its first n nodes are the best tree of n."""
    parents, ranks = [-1], [0]
    frontier = [(-FIRST, 0, 0)]
    while len(parents) < size:
        score, parent, rank = heapq.heappop(frontier)
        parents.append(parent)
        ranks.append(rank)
        heapq.heappush(frontier, (score * FIRST, len(parents) - 1, 0))
        if rank + 1 < top_k:
            above = score / (FIRST if rank == 0 else OTHERS / rank)
            heapq.heappush(frontier, (above * OTHERS / (rank + 1), parent, rank + 1))
    return parents, ranks


class Recycling(DeviceDrafter):
    """Keeps, for each token, the top-k next tokens of the latest scored position that held it, accepted or not (of
    several in one step, of any).

    Memory, on the model's device: ``8 * top_k`` bytes per token of the vocabulary.

    :param top_k: next tokens kept.
    :raises ConfigError: ``top_k`` below 1.
    """

    name = "recycling"

    def __init__(self, top_k: int = 8) -> None:
        if top_k < 1:
            raise ConfigError(f"top_k must be at least 1, not {top_k}")
        super().__init__()
        self.top_k = top_k
        self.needs = Needs(top_k=top_k, prompt=Needs.ALL, host=False)

    def make(self, device: torch.device, vocab_size: int) -> Matrix:
        return Matrix(min(self.top_k, vocab_size), vocab_size, device)


class Matrix:
    """The next tokens of every token, and the trees that are read off them."""

    def __init__(self, top_k: int, vocab_size: int, device: torch.device) -> None:
        self.top_k, self.vocab_size = top_k, vocab_size
        # whatever was never scored is followed by some tokens, different ones, so that a tree always has its shape
        self.next = torch.arange(top_k, device=device).repeat(vocab_size + 1, 1)
        """``[V + 1, k]`` best first; the last row is for what is not to be learned."""
        parents, ranks = shape(top_k, LARGEST)
        self._parents = torch.tensor(parents, device=device)
        self._levels = [_Level(columns, parents, ranks, device) for columns in _by_depth(parents)]

    def draft(self, root: Tensor, nodes: int) -> DraftTree:
        nodes = min(nodes, LARGEST)
        tokens = root.clamp(max=self.vocab_size)[:, None].repeat(1, nodes)
        for level in self._levels:
            count = bisect_left(level.columns, nodes)  # of its columns these are in a tree of so many nodes
            if count == 0:
                break
            above = tokens.index_select(1, level.parents[:count])
            guesses = self.next.view(-1)[above * self.top_k + level.ranks[:count]]
            tokens.index_copy_(1, level.places[:count], guesses)
        tokens[:, 0] = root
        return DraftTree(tokens, self._parents[:nodes].expand_as(tokens), torch.full_like(root, nodes))

    def observe(self, tree: DraftTree, verdict: Verdict, active: Tensor) -> None:
        assert verdict.top_ids is not None
        top_ids = verdict.top_ids[..., : self.top_k].clamp(max=self.vocab_size - 1)  # a head may have more rows
        known = tree.real & active[:, None] & (tree.tokens < self.vocab_size)
        learned = torch.where(known, tree.tokens, self.vocab_size)
        # of equal tokens, any may write last; on an accelerator even id by id: that changes guesses, never output
        self.next.index_copy_(0, learned.flatten(), top_ids.flatten(0, 1))


class _Level:
    """Columns of one depth, in ascending order."""

    def __init__(self, columns: list[int], parents: list[int], ranks: list[int], device: torch.device) -> None:
        self.columns = columns
        self.places, self.parents, self.ranks = (
            torch.tensor(part, device=device)
            for part in (columns, [parents[column] for column in columns], [ranks[column] for column in columns])
        )


def _by_depth(parents: list[int]) -> list[list[int]]:
    """Columns of depth 1, 2, ..."""
    depth = [0]
    for parent in parents[1:]:
        depth.append(depth[parent] + 1)
    return [[column for column, at in enumerate(depth) if at == level] for level in range(1, max(depth, default=0) + 1)]
