"""The path of a draft tree that is worth most: what is left of it for a model that takes a single one."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch

from racer.step.draft_tree import DraftTree
from racer.step.view import StepView

CHAIN_FROM = 32
"""Nodes of the tree, at least, whose best path becomes a chain."""


def width_before(view: StepView, chains: bool, width: int) -> int:
    """Nodes to ask a drafter for, of which ``width`` are wanted.

    :param chains: whether it drafts a chain where one is asked for.
    """
    return max(width, CHAIN_FROM) if view.chain and not chains else width


def best_path(tree: DraftTree, width: int) -> DraftTree:
    """The root's path to the leaf that promises most accepted nodes, as a chain of ``width`` columns at most.

    By the sum of its scores. Where there are none, the first child of each node: drafters give what they think most of
    first. On the host; a faulty tree is cut back to its root.
    """
    tree = tree.to(torch.device("cpu"))
    if tree.width <= width and bool((tree.parent[:, 1:] == torch.arange(tree.width - 1)).all()):
        return tree  # it is one
    scores = [None] * tree.batch if tree.score is None else tree.score.nan_to_num(0.0).tolist()
    rows = zip(tree.parent.tolist(), tree.count.tolist(), scores, strict=True)
    paths = [_best(parent, min(count, tree.width), score)[:width] for parent, count, score in rows]
    longest = max(map(len, paths))
    place = torch.tensor([[*path, *[0] * (longest - len(path))] for path in paths])
    chain = DraftTree.chain(tree.tokens.gather(1, place), torch.tensor([len(path) for path in paths]))
    score, source = (None if part is None else part.gather(1, place) for part in (tree.score, tree.source))
    return attrs.evolve(chain, score=score, source=source, sources=tree.sources)


def _best(parent: Sequence[int], count: int, score: Sequence[float] | None) -> list[int]:
    """Columns of the path that is worth most, the root's first."""
    worth, best = [0.0] * max(count, 1), 0
    for node in range(1, count):
        if not 0 <= parent[node] < node:
            return [0]
        if score is not None:
            worth[node] = worth[parent[node]] + score[node]
            best = node if worth[node] > worth[best] else best
    if score is None:
        while (child := next((node for node in range(best + 1, count) if parent[node] == best), None)) is not None:
            best = child
    path = [best]
    while path[-1]:
        path.append(parent[path[-1]])
    return path[::-1]
