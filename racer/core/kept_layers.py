"""Layers that multiply, or look up, in few bits (:mod:`racer.core.kept_weights`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from racer.core.kept_weights import KeptWeight, OfFixedTypes
from racer.core.recording import recorder
from racer.kernels.native.few_bits import LANES

CHUNK = 4096
"""Rows that are unpacked at once."""


class _KeptLayer(OfFixedTypes):
    """A layer whose weight is kept in few bits, and saved as a plain one."""

    held: KeptWeight

    @property
    def weight(self) -> Tensor:
        """``[out, in]`` or ``[tokens, size]``, unpacked anew each time."""
        return self.held.dequantised()

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = self.weight


class KeptLinear(_KeptLayer):
    """``torch.nn.Linear`` whose weight is kept in few bits."""

    bias: Tensor | None

    def __init__(self, held: KeptWeight, bias: Tensor | None = None) -> None:
        super().__init__()
        self.in_features, self.out_features = held.inputs, held.outputs
        self.held = held
        more = -held.outputs % LANES
        full = None if bias is None else F.pad(bias.detach().float(), (0, more)).contiguous()
        self.register_buffer("bias", full, persistent=False)
        self._facts: Any = None

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.bias is not None:
            destination[f"{prefix}bias"] = self.bias[: self.out_features].clone()

    def forward(self, rows: Tensor) -> Tensor:
        """``[..., in]`` to ``[..., out]``, of the rows' dtype."""
        plain = rows if rows.dtype == torch.float32 and rows.is_contiguous() else rows.float().contiguous()
        if type(plain) is not Tensor or plain.requires_grad or not plain.numel():
            return self._unpacked(plain).to(rows.dtype)
        held, bias = self.held, self.bias
        facts, places = self._facts, held.places(bias)
        if facts is None or tuple(facts[: len(places)]) != places:
            self._facts = facts = held.facts(bias)
        if (writer := recorder()) is not None:
            writer.weight(self._buffers, "bias")
        product = held.product(plain, facts)
        return product if rows.dtype == torch.float32 else product.to(rows.dtype)

    def _unpacked(self, rows: Tensor) -> Tensor:
        held, bias = self.held, self.bias
        parts = [
            F.linear(rows, held.dequantised(start, min(start + CHUNK, held.outputs)))
            for start in range(0, held.outputs, CHUNK)
        ]
        product = torch.cat(parts, -1)
        return product if bias is None else product + bias[: held.outputs]

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class KeptEmbedding(_KeptLayer):
    """``torch.nn.Embedding`` whose weight is kept in few bits."""

    def __init__(self, held: KeptWeight, dtype: torch.dtype) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim, self.dtype = held.outputs, held.inputs, dtype
        self.held = held

    @property
    def weight(self) -> Tensor:
        """``[tokens, size]``, unpacked anew each time."""
        return self.held.dequantised().to(self.dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Rows come in the dtype that the model is given."""
        super()._apply(fn, recurse)
        self.dtype = fn(torch.empty(0, dtype=self.dtype, device="cpu")).dtype
        return self

    def forward(self, tokens: Tensor) -> Tensor:
        """``[...]`` to ``[..., size]``."""
        if tokens.numel() and not (int(tokens.min()) >= 0 and int(tokens.max()) < self.num_embeddings):
            raise IndexError("index out of range in self")
        rows = self.held.rows(tokens.reshape(-1)).to(self.dtype)
        return rows.view(*tokens.shape, self.embedding_dim)
