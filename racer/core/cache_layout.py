"""What the layers of a model store of each token: keys, values, and the keys of an indexer where they have one."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor
from transformers.cache_utils import Cache


@attrs.frozen
class Block:
    """Shape and place of one layer's keys, or values."""

    heads: int
    head_dim: int
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, states: Tensor) -> Block:
        """From states ``[B, heads, length, head_dim]``."""
        return cls(states.shape[1], states.shape[3], states.dtype, states.device)


@attrs.frozen
class CacheLayout:
    """What a model's layers store, as seen in a trial run (never taken from the configuration)."""

    keys: tuple[Block, ...]
    """Of each layer that stores something."""
    values: tuple[Block, ...]
    stored: tuple[int, ...] = attrs.field(default=attrs.Factory(lambda own: tuple(range(len(own.keys))), True))
    """The numbers of these layers, ascending. Others read what an earlier layer stored, or do not attend at all."""
    layers: int = attrs.field(default=attrs.Factory(lambda own: len(own.keys), True))
    """How many there are of both kinds."""
    index_keys: tuple[Block, ...] = ()
    """Of each layer with an indexer, which chooses the keys that are attended to: a third block, of one head."""
    indexed: tuple[int, ...] = ()
    """The numbers of these layers, ascending."""

    @classmethod
    def of(cls, cache: Cache) -> CacheLayout:
        """From a cache of transformers' after a run.

        :raises TypeError: a layer has states that are not keys and values of each token.
        """
        stored, indexed = [], []
        for index, layer in enumerate(cache.layers):
            if hasattr(layer, "conv_states") or getattr(layer, "indexer_position_ids", None) is not None:
                raise TypeError(f"a {type(layer).__name__} stores more than keys and values")
            if layer.keys is not None:
                stored.append(index)
            if getattr(layer, "indexer_keys", None) is not None:
                indexed.append(index)
        if not stored:
            raise TypeError("no layer stores keys and values")
        return cls(
            keys=tuple(Block.of(cache.layers[index].keys) for index in stored),
            values=tuple(Block.of(cache.layers[index].values) for index in stored),
            stored=tuple(stored),
            layers=len(cache.layers),
            index_keys=tuple(Block.of(cache.layers[index].indexer_keys[:, None]) for index in indexed),
            indexed=tuple(indexed),
        )

    def groups(self) -> dict[Block, int]:
        """How many equal blocks there are of each kind."""
        blocks = [*self.keys, *self.values, *self.index_keys]
        return {block: blocks.count(block) for block in dict.fromkeys(blocks)}
