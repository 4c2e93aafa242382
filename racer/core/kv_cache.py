"""A KV cache whose newest rows are scratch: a tree is written behind the committed rows, and only its path stays.

Storage is allocated once per shape, ``[layers, B, heads, capacity, head_dim]``, so keeping a path is two kernels for
the whole model, and nothing is ever concatenated. Row ``b`` holds its committed tokens in slots ``[padding_b,
length_b)``; every forward pass writes to the slots from ``end = max(length)`` on, the same for all rows. Slots between
a row's length and ``end`` hold garbage that the mask hides.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache

from racer.core.cache_layout import Block, CacheLayout
from racer.core.tree_layer import TreeLayer

GROWTH = 256
"""Slots are added in multiples of this."""


class TreeCache(Cache):  # type: ignore[misc]  # transformers is untyped here
    """Committed rows and scratch rows for a batch of ``len(padding)`` sequences.

    :param layout: what the model's layers store.
    :param padding: masked slots at the left of each row.
    :param capacity: slots to allocate at once; more are added when :meth:`reserve` asks for them.
    """

    def __init__(self, layout: CacheLayout, padding: Sequence[int], capacity: int) -> None:
        super().__init__(layers=[TreeLayer(self, index) for index in range(layout.layers)])
        self.padding = list(padding)
        self.lengths = [0] * len(padding)
        """Slots in use per row, padding included; known to the host without asking the device."""
        self.capacity = _bucket(capacity)
        self.offset: Tensor | None = None
        """How much further than its text the positions of a row are, as a prepared call has it; None: not at all."""
        self.moves = 0
        """How often storage has grown, and so moved."""
        self.layout = layout
        self._stores: dict[Block, Tensor] = {}
        """The rows that are in use of :attr:`_seats`."""
        self._seats: dict[Block, Tensor] = {}
        """All storage: rows for which there is room."""
        self._high = 0
        """Slots that were ever written."""
        for block, count in layout.groups().items():
            self._seats[block] = self._stores[block] = _zeros(block, count, len(padding), self.capacity)
        self._place_layers()

    @property
    def end(self) -> int:
        """Where the scratch rows start."""
        return max(self.lengths)

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        """Keys and values ``[B, heads, capacity, head_dim]`` of one layer, which stores some."""
        return self._keys[index], self._values[index]

    def index_keys(self, index: int) -> Tensor:
        """The indexer's keys ``[B, capacity, head_dim]`` of one layer, which has an indexer."""
        return self._index_keys[index][:, 0]

    @property
    def stores(self) -> Iterable[Tensor]:
        """All storage: one tensor ``[layers, B, heads, capacity, head_dim]`` for each kind of block."""
        return self._stores.values()

    def reset(self, padding: Sequence[int]) -> None:
        """Empty, for another batch of as many rows.

        Storage is wiped: what an earlier batch left is masked, but a NaN would get through.
        """
        self.padding, self.lengths = list(padding), [0] * len(padding)
        for store in self.stores:
            store.zero_()

    def has_room(self, rows: int) -> bool:
        """Whether there is room for ``rows`` scratch rows."""
        return self.end + rows <= self.capacity

    def reserve(self, rows: int) -> None:
        """Make room for ``rows`` scratch rows.

        Grows one store at a time, so at most one is held twice, and by a quarter at least, so that it is seldom copied.
        """
        self._high = max(self._high, self.end + rows)
        if not self.has_room(rows):
            self._move(len(self.lengths), _bucket(max(self.end + rows, self.capacity + self.capacity // 4)))

    def _move(self, seats: int, capacity: int) -> None:
        """Go on in new storage, for so many rows and slots."""
        for views in (self._keys, self._values, self._index_keys):
            views.clear()  # they would keep all of the old storage alive
        self.moves += 1
        self.capacity, self._high = capacity, min(self._high, capacity)
        for block, count in self.layout.groups().items():
            self._seats.pop(block)
            old = self._stores.pop(block)
            new = self._seats[block] = _zeros(block, count, seats, capacity)
            self._stores[block] = new[:, : len(self.lengths)]
            common = min(old.shape[3], capacity)
            self._stores[block][:, :, :, :common] = old[:, :, :, :common]
        self._place_layers()

    def join(self, other: TreeCache, seats: int, scratch: int) -> None:
        """Take in the rows of another cache of the same layout, behind the own ones. Neither has padding.

        What others have left where the rows will look is wiped: it is masked, but a NaN would get through.

        :param seats: rows to make room for, if there is none ...
        :param scratch: ... and slots behind the longest of them. A longer row may have left.
        """
        rows, before, end = len(self.lengths), self.end, max(self.end, other.end)
        if rows + len(other.lengths) > self.seats or end > self.capacity:
            self._move(max(seats, rows + len(other.lengths)), _bucket(end + scratch))
        self.padding += other.padding
        self.lengths += other.lengths
        for block, store in self._seats.items():
            store[:, :rows, :, before:end] = 0
            fresh = self._stores[block] = store[:, : len(self.lengths)]
            fresh[:, rows:, :, : self._high] = 0
            for place, length in enumerate(other.lengths):
                fresh[:, rows + place, :, :length] = other._stores[block][:, place, :, :length]
        self._high = max(self._high, end)
        self._place_layers()

    @property
    def seats(self) -> int:
        """Rows for which there is storage."""
        return next(store.shape[1] for store in self._seats.values())

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows of the batch alone, none before its old place: in ascending order, or with holes filled
        from the end.

        They move up in the storage they have: a new one would be smaller, but mapping it takes longer than a step.
        """
        end = self.end
        for block, store in self._stores.items():
            for place, row in enumerate(rows):
                if place != row:
                    store[:, place, :, :end] = store[:, row, :, :end]
            self._stores[block] = store[:, : len(rows)]
        if self.offset is not None:
            self.offset = self.offset[..., list(rows), :]
        self.padding = [self.padding[row] for row in rows]
        self.lengths = [self.lengths[row] for row in rows]
        self._place_layers()

    def row(self, row: int, count: int) -> list[Tensor]:
        """A copy of a row's first ``count`` slots: ``[layers, heads, count, head_dim]`` for each kind of block."""
        return [store[:, row, :, :count].clone() for store in self.stores]

    def put_row(self, row: int, states: Sequence[Tensor]) -> None:
        """Write what :meth:`row` of a cache of the same layout gave; lengths stay as they are."""
        for store, part in zip(self.stores, states, strict=True):
            store[:, row, :, : part.shape[2]] = part

    def append(self, count: int) -> None:
        """Commit the ``count`` rows that were just written, for all rows: a piece of the prompt."""
        self.lengths = [self.end + count] * len(self.lengths)

    def commit(self, path: Tensor, advance: Sequence[int], *, together: bool = True) -> None:
        """Keep the scratch rows ``path [B, A]`` (int64, on any layer's device) as the next rows of each sequence.

        Paths start with the root, column 0. ``advance[b]`` of the ``A`` entries count for row ``b`` (0 for finished
        rows).

        :param together: whether to move all rows of a batch on a CPU at once, for which numba is imported.
        """
        if together and len(advance) > 1 and all(block.device.type == "cpu" for block in self._stores):
            self._move_together(path, advance)
        else:
            self._move_each(path, advance)
        self.advance(advance)

    def _move_each(self, path: Tensor, advance: Sequence[int]) -> None:
        end = self.end
        for row, (length, kept) in enumerate(zip(self.lengths, advance, strict=True)):
            if kept > 1 or (kept and length < end):  # a lone root of the longest row stands where it belongs
                columns = path[row, :kept] + end
                for block, store in self._stores.items():
                    # a few contiguous rows: index_select took 0.03 ms for 30 layers where gather and scatter took 11
                    store[:, row, :, length : length + kept] = store[:, row].index_select(2, columns.to(block.device))

    def _move_together(self, path: Tensor, advance: Sequence[int]) -> None:
        """The same for a batch on a CPU, where once rows differ in length nearly all of them move in every step."""
        end = self.end
        counts = [
            0 if kept == 1 and length == end else kept for length, kept in zip(self.lengths, advance, strict=True)
        ]
        if not any(counts):
            return
        from racer.kernels.kv_move import move  # with numba, which plain decoding does without

        columns = path.contiguous().numpy()
        for store in self.stores:
            slots = store.detach().view(torch.uint8).numpy()
            if not move(slots, end, columns, np.array(self.lengths), np.array(counts)):
                raise IndexError(f"{path.tolist()}, of which {list(advance)} count, are not paths of a tree")

    def advance(self, counts: Sequence[int]) -> None:
        """Note that each row is longer by so much: its rows stand where they belong."""
        self.lengths = [length + count for length, count in zip(self.lengths, counts, strict=True)]

    def _place_layers(self) -> None:
        taken = dict.fromkeys(self._stores, 0)

        def next_of(block: Block) -> Tensor:
            taken[block] += 1
            return self._stores[block][taken[block] - 1]

        def place(layers: tuple[int, ...], blocks: tuple[Block, ...]) -> dict[int, Tensor]:
            return {layer: next_of(block) for layer, block in zip(layers, blocks, strict=True)}

        layout = self.layout
        self._keys, self._values = place(layout.stored, layout.keys), place(layout.stored, layout.values)
        self._index_keys = place(layout.indexed, layout.index_keys)


def _bucket(slots: int) -> int:
    return -(-slots // GROWTH) * GROWTH


def _zeros(block: Block, count: int, batch: int, capacity: int) -> Tensor:
    # zeros, not empty: a masked NaN would still poison the weighted sum
    return torch.zeros(count, batch, block.heads, capacity, block.head_dim, dtype=block.dtype, device=block.device)
