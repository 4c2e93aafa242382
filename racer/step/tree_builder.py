"""Growing a draft tree on the host, node by node: what most drafters need."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from racer.step.draft_tree import DraftTree


class TreeBuilder:
    """One row's tree as a trie under ``root``, at most ``budget`` nodes, the root included."""

    def __init__(self, root: int, budget: int) -> None:
        self.budget = budget
        self.tokens: list[int] = [root]
        self.parents: list[int] = [-1]
        self.scores: list[float | None] = [1.0]
        self._children: dict[tuple[int, int], int] = {}

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def full(self) -> bool:
        return len(self.tokens) >= self.budget

    def add(self, parent: int, token: int, score: float | None = None) -> int | None:
        """The node for ``token`` under node ``parent``, made if it is new and there is room; None if there is none.

        ``score`` is the estimated probability that the whole path up to this node is accepted; leave it out if you
        have no estimate.
        """
        node = self._children.get((parent, token))
        if node is not None or self.full:
            return node
        node = len(self.tokens)
        self._children[parent, token] = node
        self.tokens.append(token)
        self.parents.append(parent)
        self.scores.append(score)
        return node

    def add_chain(self, tokens: Iterable[int], parent: int = 0) -> int:
        """A path below ``parent`` as far as the budget allows; its last node."""
        for token in tokens:
            node = self.add(parent, token)
            if node is None:
                break
            parent = node
        return parent


def stack(builders: Sequence[TreeBuilder], source: str) -> DraftTree:
    """One batched CPU tree from a builder per row, credited to ``source``; scored if every node has a score."""
    width = max(map(len, builders))
    padding = [width - len(row) for row in builders]
    scores: list[list[float | None]] = [row.scores + [0.0] * pad for row, pad in zip(builders, padding, strict=True)]
    return DraftTree(
        tokens=torch.tensor([row.tokens + [0] * pad for row, pad in zip(builders, padding, strict=True)]),
        parent=torch.tensor([row.parents + [0] * pad for row, pad in zip(builders, padding, strict=True)]),
        count=torch.tensor([len(row) for row in builders]),
        score=torch.tensor(scores) if all(None not in row for row in scores) else None,
        source=torch.zeros(len(builders), width, dtype=torch.long),
        sources=(source,),
    )
