"""What a batch keeps on the device between steps, at addresses that stay: lengths, roots, inboxes, the cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from racer.buckets import slots_bucket
from racer.cache import CacheLayout, TreeCache
from racer.static_cache import FixedWindow, move_rows
from racer.tree import DraftTree


class Sheet:
    """Room for trees of up to N columns: where a draft arrives, and where its logits stay until the next step."""

    def __init__(self, batch: int, nodes: int, device: torch.device) -> None:
        self.nodes = nodes
        shape = (batch, 4 * nodes + 2)
        self.inbox = torch.zeros(shape, dtype=torch.long, device=device)
        """``[B, 4N + 2]``: tokens, parents, sources, scores (the bits of float64), count, number of sources."""
        self.faults = torch.zeros(batch, dtype=torch.long, device=device)
        self.logits: Tensor | None = None
        """``[B, N, V]``, shared by all graphs of this width, so that they hold no logits of their own."""
        # pinned, so that the copy to the device need not wait for the host
        self._envelope = torch.zeros(shape, dtype=torch.long, pin_memory=device.type == "cuda")

    def fold(self, tree: DraftTree) -> Tensor:
        """A tree of at most N columns in the form of the inbox, on the device that it lives on. Nothing is sent yet."""
        on_host = tree.tokens.device.type == "cpu"
        letter = self._envelope.zero_() if on_host else torch.zeros_like(self.inbox)
        tokens, parent, source, score = self._columns(letter)
        width = tree.width
        tokens[:, :width], parent[:, :width] = tree.tokens, tree.parent
        if tree.source is not None:
            source[:, :width] = tree.source
        if tree.score is not None:
            score[:, :width] = tree.score.detach()
        # a count beyond the drafted columns must not make nodes of the padding
        letter[:, -2] = torch.where(tree.count > width, self.nodes + 1, tree.count)
        letter[:, -1] = tree.kinds
        return letter

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
        """The tree in the inbox ``[B, N]``, and its number of sources ``[B]``."""
        tokens, parent, source, score = self._columns(self.inbox)
        return DraftTree(tokens, parent, self.inbox[:, -2], score, source), self.inbox[:, -1]

    def put(self, tree: DraftTree, faults: Tensor) -> None:
        """Write the tree that is scored in place of the drafted one."""
        assert tree.score is not None
        assert tree.source is not None
        count, kinds = tree.count[:, None], self.inbox[:, -1:]
        self.inbox.copy_(
            torch.cat([tree.tokens, tree.parent, tree.source, tree.score.view(torch.long), count, kinds], 1)
        )
        self.faults.copy_(faults)

    def shown(self, like: DraftTree) -> DraftTree:
        """The scored tree in the drafted width, without what the drafter did not give; a view of the inbox."""
        tokens, parent, source, score = (part[:, : like.width] for part in self._columns(self.inbox))
        return DraftTree(
            tokens,
            parent,
            self.inbox[:, -2],
            None if like.score is None else score,
            None if like.source is None else source,
            like.sources,
        )

    def _columns(self, sheet: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        tokens, parent, source, score = torch.split(sheet[:, :-2], self.nodes, dim=1)
        return tokens, parent, source, score.view(torch.float64)


class Stage:
    """The state of one batch, made once and used by one call after the other.

    :param layout: what the model's layers store, all on one device.
    :param batch: rows.
    """

    def __init__(self, layout: CacheLayout, batch: int, capacity: int) -> None:
        device = layout.keys[0].device
        self.cache = TreeCache(layout, [0] * batch, slots_bucket(capacity))
        self.device = device
        self.lengths, self.padding, self.root, self.seeds = (
            torch.zeros(batch, dtype=torch.long, device=device) for _ in range(4)
        )
        """``[B]`` int64 each: slots in use, padding included; masked slots; pending tokens; seeds."""
        self.active = torch.zeros(batch, dtype=torch.bool, device=device)
        """``[B]`` rows whose step counts."""
        self.last_position = torch.zeros(1, dtype=torch.long, device=device)
        self._acting: tuple[bool, ...] = (False,) * batch
        self._resting: tuple[Tensor, Tensor] | None = None
        """``[B]`` rows that are finished, and ``[B]`` their last positions."""
        self._mailbox = torch.empty(0, dtype=torch.long)
        self._windows: dict[int, FixedWindow] = {}
        self._sheets: dict[int, Sheet] = {}

    def open(self, padding: Sequence[int], capacity: int) -> bool:
        """Empty the cache for a new call; whether its storage moved."""
        moved = self.cache.reset(padding, slots_bucket(capacity))
        if moved:
            self._windows.clear()
        return moved

    def begin(self, root: Sequence[int], seeds: Tensor, last_position: int) -> None:
        """Take the rows over as the prefill left them, with ``root`` pending."""
        news = torch.tensor([self.cache.lengths, self.cache.padding, list(root)]).to(self.device)
        for part, new in zip((self.lengths, self.padding, self.root), news, strict=True):
            part.copy_(new)
        self._resting = None
        self.seeds.copy_(seeds)
        self.last_position.fill_(last_position)

    def reserve(self, nodes: int) -> bool:
        """Make room for a tree of ``nodes`` columns; whether storage moved, and with it all windows."""
        moved = self.cache.reserve(nodes)
        if moved:
            self._windows.clear()
        return moved

    def window(self, nodes: int) -> FixedWindow:
        """The shortest window for a tree of ``nodes`` columns, for which there is room."""
        length = min(slots_bucket(self.cache.end + nodes), self.cache.capacity)
        if length not in self._windows:
            self._windows[length] = FixedWindow(self.cache, length)
        return self._windows[length]

    def sheet(self, nodes: int) -> Sheet:
        if nodes not in self._sheets:
            self._sheets[nodes] = Sheet(len(self.root), nodes, self.device)
        return self._sheets[nodes]

    def ends(self) -> Tensor:
        """``[2, B]`` pending tokens and their positions: a copy, as the step that follows changes both."""
        position = self.lengths - self.padding
        if self._resting is not None:
            position = torch.where(*self._resting, position)
        return torch.stack([self.root, position])

    def rest(self, done: Sequence[bool], root: Sequence[int], position: Sequence[int]) -> None:
        """Note where finished rows ended: their last step's tokens may not all have been emitted."""
        self._resting = None
        if any(done):
            mask, roots, positions = torch.tensor([list(done), list(root), list(position)]).to(self.device)
            self.root.copy_(roots)
            self._resting = mask.bool(), positions

    def act(self, active: tuple[bool, ...]) -> None:
        """Say whose step counts; the device is only told when that changes."""
        if active != self._acting:
            self.active.copy_(torch.tensor(active))
            self._acting = active

    def fetch(self, packed: Tensor) -> NDArray[np.int64]:
        """A flat tensor on the host: one copy to pinned memory and one wait, the step's only synchronisation."""
        if self.device.type != "cuda":
            return packed.numpy()
        if len(self._mailbox) < len(packed):
            self._mailbox = torch.empty(2 * len(packed), dtype=torch.long, pin_memory=True)
        mail = self._mailbox[: len(packed)]
        mail.copy_(packed, non_blocking=True)
        torch.cuda.current_stream(self.device).synchronize()
        return mail.numpy().copy()  # the next step's mail comes to the same place

    @contextmanager
    def rehearsal(self) -> Iterator[None]:
        """Inside, no row counts: whatever is run, lengths, roots and committed rows stay as they are."""
        acting = self._acting
        self.act((False,) * len(acting))
        try:
            yield
        finally:
            self.act(acting)

    def keep(self, path: Tensor, length: Tensor, next_token: Tensor) -> None:
        """Commit on the device: ``path [B, A]`` columns behind the longest row, of which ``length [B]`` count.

        Rows that do not act, and entries beyond a row's length, are copied to where they are.
        """
        kept = torch.where(self.active, length, 0)
        steps = torch.arange(path.shape[1], device=self.device)
        target = self.lengths[:, None] + steps
        source = torch.where(steps < kept[:, None], self.lengths.max() + path, target)
        move_rows(self.cache.stores, source, target)
        self.lengths.add_(kept)
        self.root.copy_(torch.where(self.active, next_token, self.root))

    def place(self, tree: DraftTree, window: FixedWindow) -> Placement:
        """Where the nodes stand and what they see; every tensor is computed on the device."""
        slots = self.lengths.max() + torch.arange(tree.width, device=self.device)
        position = torch.minimum((self.lengths - self.padding)[:, None] + tree.depth, self.last_position)
        all_slots = torch.arange(window.length, device=self.device)
        column = all_slots - slots[0]  # [W]: whose row each slot is
        in_tree = (column >= 0) & (column < tree.width)
        column = column.clamp(0, tree.width - 1)
        past = (all_slots >= self.padding[:, None]) & (all_slots < self.lengths[:, None])
        seen = torch.where(in_tree, tree.ancestors.index_select(2, column), past[:, None])
        places = torch.where(in_tree, position.index_select(1, column), all_slots - self.padding[:, None])
        return Placement(slots, position, seen, places)


@attrs.frozen(eq=False)
class Placement:
    """Where a tree's nodes stand in a window of W slots."""

    slots: Tensor
    """``[N]`` where their rows are written."""
    position: Tensor
    """``[B, N]``"""
    seen: Tensor
    """``[B, N, W]`` bool: the slots that each may see."""
    places: Tensor
    """``[B, W]`` position of each slot."""
