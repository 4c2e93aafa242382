"""The cache at fixed addresses: attention over a window of fixed length, writes where the device says.

:class:`racer.core.kv_cache.TreeCache` slices by host integers, so every step has another shape. Here a layer always
gives the same window of its storage, and rows are written and moved by index tensors: shapes and addresses stay, only
contents change, and a CUDA graph can be replayed. What is not to be seen is for the mask to hide.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from racer.core.kv_cache import TreeCache


class _FixedLayer(CacheLayerMixin):  # type: ignore[misc]  # transformers is untyped here
    """One layer's keys and values ``[B, heads, W, head_dim]``, in the shape that transformers asks for."""

    is_sliding = False  # all tokens are kept; the window of attention is in the mask
    is_croppable = False
    is_compileable = True

    def __init__(self, keys: Tensor, values: Tensor, index_keys: Tensor | None) -> None:
        super().__init__()
        self.keys, self.values, self.index_keys = keys, values, index_keys
        self.slots = torch.empty(0, dtype=torch.long, device=keys.device)
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Storage is there from the start."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        self.keys.index_copy_(2, self.slots, key_states)
        self.values.index_copy_(2, self.slots, value_states)
        return self.keys, self.values

    def update_indexer(self, key_states: Tensor) -> Tensor:
        assert self.index_keys is not None
        return self.index_keys.index_copy_(1, self.slots, key_states)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.keys.shape[2], 0

    def get_seq_length(self) -> int:
        # what lies before the queries, if they were the end of the window; models ask, and our positions overrule it
        return self.keys.shape[2] - self.slots.shape[0]

    def get_max_length(self) -> int:
        return int(self.keys.shape[2])

    get_max_cache_shape = get_max_length  # its name before transformers 5.18


class FixedWindow(Cache):  # type: ignore[misc]  # transformers is untyped here
    """The first ``length`` slots of a tree cache, as a cache of their own over the same storage.

    :param cache: whose storage it shares, until that grows.
    :param length: slots that attention reads, in use or not.
    """

    def __init__(self, cache: TreeCache, length: int) -> None:
        own: dict[int, _FixedLayer] = {}
        for index in cache.layout.stored:
            keys, values = (part[:, :, :length] for part in cache.layer(index))
            index_keys = cache.index_keys(index)[:, :length] if index in cache.layout.indexed else None
            own[index] = _FixedLayer(keys, values, index_keys)
        unused = next(iter(own.values()))  # in the place of layers that store nothing, for what they may ask for
        super().__init__(layers=[own.get(index, unused) for index in range(cache.layout.layers)])
        self.length = length

    def aim(self, slots: Tensor) -> None:
        """Let the next forward pass write its N rows to ``slots [N]`` (int64, on the device, all below ``length``)."""
        for layer in self.layers:
            layer.slots = slots


def move_rows(stores: Iterable[Tensor], source: Tensor, target: Tensor) -> None:
    """Copy slots ``source [B, A]`` of every layer to ``target [B, A]``, as if all were read before any is written.

    :param stores: ``[layers, B, heads, capacity, head_dim]`` each.
    :param target: no slot twice in a row.
    """
    for store in stores:
        layers, batch, heads, _, size = store.shape
        shape = (layers, batch, heads, source.shape[1], size)
        rows = store.gather(3, source[None, :, None, :, None].expand(shape))
        store.scatter_(3, target[None, :, None, :, None].expand(shape), rows)
