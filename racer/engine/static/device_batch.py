"""What a batch keeps on the device between steps, at addresses that stay: lengths, roots, tree buffers, the cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from racer.core.cache_layout import CacheLayout
from racer.core.kv_cache import TreeCache
from racer.engine.static.kv_window import FixedWindow, move_rows
from racer.engine.static.shapes import slots_bucket
from racer.engine.static.tree_buffer import TreeBuffer
from racer.step.draft_tree import DraftTree


class DeviceBatch:
    """The state of one batch, made once and used by one call after the other.

    :param layout: what the model's layers store, all on one device.
    :param batch: rows.
    :param capacity: slots of the cache to begin with.
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
        self._host_buffer = torch.empty(0, dtype=torch.long)
        self._moves = 0
        """Moves of the cache's storage that are known here."""
        self._windows: dict[int, FixedWindow] = {}
        self._tree_buffers: dict[int, TreeBuffer] = {}

    def open(self, padding: Sequence[int], capacity: int) -> bool:
        """Empty the cache for a new call; whether its storage moved."""
        self.cache.reset(padding)
        return self.reserve(slots_bucket(capacity))

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
        if not self.cache.has_room(nodes):
            self._windows.clear()  # before storage moves: they would keep the old one alive beside the new
        self.cache.reserve(nodes)
        moved = self.cache.moves > self._moves
        if moved:
            self._windows.clear()
            self._moves = self.cache.moves
        return moved

    def window(self, nodes: int) -> FixedWindow:
        """The shortest window for a tree of ``nodes`` columns, for which there is room."""
        length = min(slots_bucket(self.cache.end + nodes), self.cache.capacity)
        if length not in self._windows:
            self._windows[length] = FixedWindow(self.cache, length)
        return self._windows[length]

    def tree_buffer(self, nodes: int) -> TreeBuffer:
        """The one of this width; it is kept, as graphs hold its address."""
        if nodes not in self._tree_buffers:
            self._tree_buffers[nodes] = TreeBuffer(len(self.root), nodes, self.device)
        return self._tree_buffers[nodes]

    def pending(self) -> Tensor:
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
        if len(self._host_buffer) < len(packed):
            self._host_buffer = torch.empty(2 * len(packed), dtype=torch.long, pin_memory=True)
        fetched = self._host_buffer[: len(packed)]
        fetched.copy_(packed, non_blocking=True)
        torch.cuda.current_stream(self.device).synchronize()
        return fetched.numpy().copy()  # what the next step fetches comes to the same place

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
