"""Attention masks for a tree: additive, because sdpa and eager both take that (eager misreads a bool mask)."""

from __future__ import annotations

from typing import Any

import attrs
import torch
from torch import Tensor

FULL, SLIDING = "full_attention", "sliding_attention"


@attrs.frozen
class MaskPlan:
    """Which masks a model expects."""

    window: int | None = None
    """Width of the sliding window, if some layers have one."""
    layer_types: tuple[str, ...] = ()
    """Non-empty: the model takes a dict with one mask for each of these."""

    @classmethod
    def of(cls, config: Any) -> MaskPlan | str:
        """From a model's configuration, or the reason why there is none."""
        config = config.get_text_config()
        types = tuple(sorted(set(getattr(config, "layer_types", None) or ())))
        if strange := [name for name in types if name not in (FULL, SLIDING)]:
            return f"it has layers of type {strange[0]}, and only full and sliding attention can be masked as a tree"
        window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
        return cls(window if not types or SLIDING in types else None, types)

    def build(self, seen: Tensor, position: Tensor, places: Tensor, dtype: torch.dtype) -> Any:
        """Additive mask ``[B, 1, N, K]``, or a dict of them by layer type.

        :param seen: ``[B, N, K]`` bool: which of the K keys each node may see, window aside.
        :param position: ``[B, N]`` int64: position of each node.
        :param places: ``[B, K]`` int64: position of each key.
        """
        if self.window is None:
            mask = _additive(seen, dtype)
            return dict.fromkeys(self.layer_types, mask) if self.layer_types else mask
        near = position[:, :, None] - places[:, None, :] < self.window
        sliding = _additive(seen & near, dtype)
        if not self.layer_types:
            return sliding
        return {name: sliding if name == SLIDING else _additive(seen, dtype) for name in self.layer_types}


def _additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
    return mask.masked_fill_(~seen, torch.finfo(dtype).min)[:, None]
