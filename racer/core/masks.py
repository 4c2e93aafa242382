"""Attention masks for a tree: additive, because sdpa and eager both take that (eager misreads a bool mask)."""

from __future__ import annotations

from typing import Any

import attrs
import torch
from torch import Tensor

FULL, SLIDING, CHUNKED = "full_attention", "sliding_attention", "chunked_attention"
AS_FULL = frozenset({FULL, "attention", "indexed_attention", "dummy", "mlp", "moe", "sparse", "dense"})
"""Names of full attention, of a choice among what a full mask shows, and of layers that do not attend. A name proves
nothing: the model is tried."""


@attrs.frozen
class MaskPlan:
    """Which masks a model expects."""

    window: int | None = None
    """Width of the sliding window, if some layers have one."""
    layer_types: tuple[str, ...] = ()
    """Non-empty: the model takes a dict with one mask for each of these."""
    chunk: int | None = None
    """Length of the chunks that some layers attend within, counted from a row's first token; None if none do."""

    @classmethod
    def of(cls, config: Any) -> MaskPlan | str:
        """From a model's configuration, or the reason why there is none."""
        config = config.get_text_config()
        types = tuple(sorted(set(getattr(config, "layer_types", None) or ())))
        if strange := [name for name in types if name not in (SLIDING, CHUNKED, *AS_FULL)]:
            return f"it has layers of type {strange[0]}, and only full, sliding and chunked attention take trees"
        window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
        chunk = getattr(config, "attention_chunk_size", None) if not types or CHUNKED in types else None
        return cls(window if not types or SLIDING in types else None, types, chunk)

    def build(self, seen: Tensor, position: Tensor, places: Tensor, dtype: torch.dtype) -> Any:
        """Additive mask ``[B, 1, N, K]``, or a dict of them by layer type.

        :param seen: ``[B, N, K]`` bool: which of the K keys each node may see, window aside.
        :param position: ``[B, N]`` int64: position of each node.
        :param places: ``[B, K]`` int64: position of each key.
        """
        if not self.layer_types:
            for name in (SLIDING, CHUNKED):
                seen = self._narrowed(seen, position, places, name)
            return _additive(seen, dtype)
        full = _additive(seen, dtype)
        masks = dict.fromkeys(self.layer_types, full)
        for name in {SLIDING, CHUNKED} & masks.keys():
            narrow = self._narrowed(seen, position, places, name)
            masks[name] = full if narrow is seen else _additive(narrow, dtype)
        return masks

    def of_lone(self, slots: int, dtype: torch.dtype, device: torch.device) -> Any | None:
        """What :meth:`build` gives for one node that sees all of ``slots`` keys; None if a window hides some."""
        if self.chunk is not None or (self.window is not None and slots > self.window):
            return None
        mask = torch.zeros(1, 1, 1, slots, dtype=dtype, device=device)
        return dict.fromkeys(self.layer_types, mask) if self.layer_types else mask

    def _narrowed(self, seen: Tensor, position: Tensor, places: Tensor, layer_type: str) -> Tensor:
        """``[B, N, K]`` bool: what layers of a type may see of ``seen``."""
        query, key = position[:, :, None], places[:, None, :]
        if layer_type == SLIDING and self.window is not None:
            return seen & (query - key < self.window)
        if layer_type == CHUNKED and self.chunk is not None:  # by position: masked slots may have negative ones
            return seen & (query // self.chunk == key // self.chunk)
        return seen


def _additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
    return mask.masked_fill_(~seen, torch.finfo(dtype).min)[:, None]
