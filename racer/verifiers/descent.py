"""The way down a tree, node after node, on the host: for processors that read prefixes, or are dear."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch
from torch import Tensor

from racer.step.draft_tree import DraftTree
from racer.step.request import Request
from racer.step.verdict import Verdict
from racer.step.view import PlacedPipeline, Prefix, StepView


@attrs.define(eq=False)
class Descent:
    """One row's way down its tree. It ends where its text ends, so that nobody is asked what would come behind that."""

    row: int
    request: Request
    edges: dict[tuple[int, int], int]
    """From a node and a token to the child that carries it; of equal siblings, the first."""
    nodes: list[int] = attrs.field(factory=lambda: [0])
    """Accepted so far, the root included."""
    path: list[int] = attrs.field(factory=list)
    """Tokens of these nodes, without the root."""
    next_token: int = 0

    @property
    def prefix(self) -> Prefix:
        return Prefix(self.row, self.request, tuple(self.path))

    @property
    def choices(self) -> list[int]:
        """Tokens of the children of the last node."""
        return [token for parent, token in self.edges if parent == self.nodes[-1]]

    def follow(self, token: int, view: StepView) -> bool:
        """Go on with ``token``, which is certain; whether what comes behind it is to be found too."""
        self.next_token = token
        child = self.edges.get((self.nodes[-1], token))
        ended = token in view.stop_tokens or token in self.request.stop_tokens
        if child is None or ended or len(self.nodes) >= self.request.remaining:
            return False
        ends = view.stops_ahead
        if view.pipeline.remembers and ends is not None and ends(self.request, [*self.path, token]):
            return False
        self.nodes.append(child)
        self.path.append(token)
        return True


def descents(view: StepView, tree: DraftTree) -> list[Descent]:
    """Of all rows that are not finished, at their roots."""
    tokens, parents, counts = tree.tokens.tolist(), tree.parent.tolist(), tree.count.tolist()
    return [
        Descent(row, request, {(parents[row][node], tokens[row][node]): node for node in range(counts[row] - 1, 0, -1)})
        for row, request in enumerate(view.requests)
        if not request.done
    ]


@attrs.frozen(eq=False)
class Level:
    """Where several rows are on their ways: the pipeline there, and what it is asked about."""

    pipeline: PlacedPipeline
    logits: Tensor
    """``[M, V]``"""
    seeds: Tensor
    """``[M]``"""
    positions: Tensor
    """``[M]`` of the tokens that come next."""

    @classmethod
    def of(cls, going: Sequence[Descent], view: StepView, logits: Tensor) -> Level:
        """:param logits: ``[B, N, V]``."""
        prefixes = [descent.prefix for descent in going]
        rows = [descent.row for descent in going]
        positions = torch.tensor([prefix.position for prefix in prefixes], device=logits.device)
        found = [logits[descent.row, descent.nodes[-1]] for descent in going]
        several = torch.stack(found) if len(found) > 1 else found[0][None]  # an index by lists takes far longer
        return cls(view.pipeline.at(prefixes), several, view.seeds[rows], positions)


def verdict_of(found: Sequence[Descent], tree: DraftTree, device: torch.device) -> Verdict:
    """Where the rows' ways have led; finished rows accept their roots."""
    path, length = torch.zeros(tree.batch, tree.width, dtype=torch.long), torch.ones(tree.batch, dtype=torch.long)
    next_token = torch.zeros(tree.batch, dtype=torch.long)
    for descent in found:
        path[descent.row, : len(descent.nodes)] = torch.tensor(descent.nodes)
        length[descent.row], next_token[descent.row] = len(descent.nodes), descent.next_token
    return Verdict(path=path.to(device), length=length.to(device), next_token=next_token.to(device))
