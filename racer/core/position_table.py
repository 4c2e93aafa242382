"""How far a model's positions go: found by watching what it looks up by them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class PositionWatch(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has it untyped
    """Inside, notes the tables that a forward pass reads at the nodes' positions, or a fixed number of rows further on.

    Learned embeddings and tables of sines are told from token embeddings, experts and the like by what they are asked
    for. Nothing of the model is touched, and no index beyond a table is ever tried.

    :param position: ``[B, N]`` int64, of the pass; best such as nothing else would be counted by.
    """

    def __init__(self, position: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.size: int | None = None
        """Positions that the shortest table has; None: there was none."""
        self._position = position

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for rows, index in _look_ups(func._schema.name, args):
            if (first := self._offset(index)) is not None:
                self.size = min(rows - first, self.size or rows)
        return result

    def _offset(self, index: Tensor) -> int | None:
        """How many rows further on than the positions an index points; None if it does something else."""
        if index.dtype != torch.int64 or index.numel() == 0 or index.numel() % self._position.shape[1]:
            return None
        wanted = self._position.to(index.device)
        found = index if index.dim() <= wanted.dim() else index.flatten(wanted.dim())[..., 0]
        if found.numel() not in (wanted.numel(), wanted.shape[1]):
            return None
        away = found.reshape(-1) - (wanted if found.numel() == wanted.numel() else wanted[0]).reshape(-1)
        offset = int(away[0])
        return offset if offset >= 0 and bool((away == offset).all()) else None


def _look_ups(name: str, args: Any) -> list[tuple[int, Tensor]]:
    """Tables that an operation reads, by their numbers of rows, and where."""
    if name == "aten::embedding":
        return [(args[0].shape[0], args[1])]
    if name in ("aten::index_select", "aten::gather"):
        return [(args[0].shape[args[1]], args[2])] if args[0].dim() else []
    if name == "aten::index":
        return [(rows, index) for rows, index in zip(args[0].shape, args[1], strict=False) if index is not None]
    return []
