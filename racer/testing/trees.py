"""Hypothesis strategies for draft trees, and drafters that play tricks."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from hypothesis import strategies as st

from racer.step.draft_tree import DraftTree
from racer.step.request import Request
from racer.step.tree_builder import TreeBuilder
from racer.step.view import StepView
from racer.strategies.base import Drafter


@st.composite
def draft_trees(
    draw: st.DrawFn, *, max_batch: int = 3, max_nodes: int = 12, vocab_size: int = 5, distinct_siblings: bool = False
) -> DraftTree:
    """Batches of ragged trees: deep, wide, empty, with equal siblings unless ``distinct_siblings``."""
    batch, width = draw(st.integers(1, max_batch)), draw(st.integers(1, max_nodes))
    tokens, parents, counts = [], [], []
    for _ in range(batch):
        row_tokens, row_parents, edges = [draw(st.integers(0, vocab_size - 1))], [-1], set()
        count = draw(st.integers(1, width))
        for node in range(1, count):
            parent, token = draw(st.integers(0, node - 1)), draw(st.integers(0, vocab_size - 1))
            if distinct_siblings and (parent, token) in edges:
                break
            edges.add((parent, token))
            row_parents.append(parent)
            row_tokens.append(token)
        counts.append(len(row_tokens))
        rubbish = draw(st.integers(0, vocab_size - 1))
        tokens.append(row_tokens + [rubbish] * (width - len(row_tokens)))
        parents.append(row_parents + [0] * (width - len(row_parents)))
    score = torch.rand(batch, width, generator=torch.Generator().manual_seed(draw(st.integers(0, 99))))
    source = torch.zeros(batch, width, dtype=torch.long)
    return DraftTree(torch.tensor(tokens), torch.tensor(parents), torch.tensor(counts), score, source, ("drawn",))


class HostileDrafter(Drafter):
    """Well-formed trees at random: deep, wide, empty, full of equal siblings, mostly wrong."""

    name = "hostile"

    def __init__(self, seed: int, vocab_size: int) -> None:
        self._random = random.Random(seed)
        self._vocab_size = vocab_size

    def draft(self, view: StepView, budget: int) -> DraftTree | None:
        if self._random.random() < 0.1:
            return None
        width = self._random.randint(1, budget)
        rows = [self._row(int(token), width) for token in view.root.tolist()]
        tokens, parents, counts = zip(*rows, strict=True)
        return DraftTree(torch.tensor(tokens), torch.tensor(parents), torch.tensor(counts))

    def _row(self, root: int, width: int) -> tuple[list[int], list[int], int]:
        reach = self._random.choice((1, 2, width))  # 1: a chain; width: any shape
        tokens = [root] + [self._random.randrange(self._vocab_size) for _ in range(width - 1)]
        parents = [-1] + [self._random.randint(max(0, node - reach), node - 1) for node in range(1, width)]
        return tokens, parents, self._random.randint(1, width)


class ReplayDrafter(Drafter):
    """Knows the right continuation, and hides it among wrong branches: long paths get accepted.

    :param answer: gives the tokens that a request will really have, prompt included.
    """

    name = "replay"

    def __init__(self, answer: Callable[[Request], list[int]], vocab_size: int, seed: int = 0) -> None:
        self._answer = answer
        self._vocab_size = vocab_size
        self._random = random.Random(seed)

    def grow(self, request: Request, tree: TreeBuilder) -> None:
        node: int | None = 0
        for token in self._answer(request)[len(request.tokens) :][: self._random.randint(0, 8)]:
            for _ in range(self._random.randint(0, 2)):
                tree.add(node or 0, self._random.randrange(self._vocab_size))
            node = tree.add(node or 0, token)
            if node is None:
                return
