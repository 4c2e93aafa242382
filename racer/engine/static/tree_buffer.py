"""A draft tree at fixed addresses: where it arrives on the device, and its logits stay until the next step."""

from __future__ import annotations

import torch
from torch import Tensor

from racer.step.draft_tree import DraftTree


class TreeBuffer:
    """Room for trees of up to N columns, and for their logits."""

    def __init__(self, batch: int, nodes: int, device: torch.device) -> None:
        self.nodes = nodes
        shape = (batch, 4 * nodes + 2)
        self.data = torch.zeros(shape, dtype=torch.long, device=device)
        """``[B, 4N + 2]``: tokens, parents, sources, scores (the bits of float64), count, number of sources."""
        self.faults = torch.zeros(batch, dtype=torch.long, device=device)
        self.logits: Tensor | None = None
        """``[B, N, V]``, shared by all graphs of this width, so that they hold no logits of their own."""
        # pinned, so that the copy to the device need not wait for the host
        self._host_buffer = torch.zeros(shape, dtype=torch.long, pin_memory=device.type == "cuda")

    def pack(self, tree: DraftTree) -> Tensor:
        """A tree of at most N columns as one tensor like :attr:`data`, on its own device. Nothing is sent yet."""
        on_host = tree.tokens.device.type == "cpu"
        packed = self._host_buffer.zero_() if on_host else torch.zeros_like(self.data)
        tokens, parent, source, score = self._columns(packed)
        width = tree.width
        tokens[:, :width], parent[:, :width] = tree.tokens, tree.parent
        if tree.source is not None:
            source[:, :width] = tree.source
        if tree.score is not None:
            score[:, :width] = tree.score.detach()
        # a count beyond the drafted columns must not make nodes of the padding
        packed[:, -2] = torch.where(tree.count > width, self.nodes + 1, tree.count)
        packed[:, -1] = tree.kinds
        return packed

    def hold(self, logits: Tensor, fixed: bool) -> Tensor:
        """Keep the logits ``[B, N, V]`` for whoever asks after the step; ``fixed``: at an address that stays."""
        if not fixed:
            self.logits = logits
        elif self.logits is None or self.logits.shape != logits.shape or self.logits.dtype != logits.dtype:
            self.logits = logits.clone()
        else:
            self.logits.copy_(logits)
        return self.logits

    def drafted(self) -> tuple[DraftTree, Tensor]:
        """The tree in the buffer ``[B, N]``, and its number of sources ``[B]``."""
        tokens, parent, source, score = self._columns(self.data)
        return DraftTree(tokens, parent, self.data[:, -2], score, source), self.data[:, -1]

    def put(self, tree: DraftTree, faults: Tensor) -> None:
        """Write the tree that is scored in place of the drafted one."""
        assert tree.score is not None
        assert tree.source is not None
        count, kinds = tree.count[:, None], self.data[:, -1:]
        self.data.copy_(
            torch.cat([tree.tokens, tree.parent, tree.source, tree.score.view(torch.long), count, kinds], 1)
        )
        self.faults.copy_(faults)

    def shown(self, like: DraftTree) -> DraftTree:
        """The scored tree in the drafted width, without what the drafter did not give; a view of the buffer."""
        tokens, parent, source, score = (part[:, : like.width] for part in self._columns(self.data))
        return DraftTree(
            tokens,
            parent,
            self.data[:, -2],
            None if like.score is None else score,
            None if like.source is None else source,
            like.sources,
        )

    def reserved(self, nodes: int, source: str) -> DraftTree:
        """The tree of up to ``nodes`` columns that will be drafted here by ``source``; a view of the buffer."""
        tokens, parent, _, _ = (part[:, :nodes] for part in self._columns(self.data))
        return DraftTree(tokens, parent, self.data[:, -2], sources=(source,))

    def _columns(self, packed: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        tokens, parent, source, score = torch.split(packed[:, :-2], self.nodes, dim=1)
        return tokens, parent, source, score.view(torch.float64)
