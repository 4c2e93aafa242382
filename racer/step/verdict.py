"""What a step decided: on the device, and on the host after the one copy that a step makes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from racer.step.draft_tree import DraftTree

FLOATS = ("top_probs",)
"""Of a :class:`HostVerdict`'s parts those that are float32."""

NO_TOKEN = -1
"""Stands for the next token where none can be drawn; it is an error if, and only if, the row gets that far."""


def check_drawn(token: int) -> None:
    """See that it is a token.

    :raises RuntimeError: it is :data:`NO_TOKEN`.
    """
    if token == NO_TOKEN:
        # all scores behind the logits processors are -inf, or some are inf or NaN; torch's words for it, as in generate
        raise RuntimeError("probability tensor contains either `inf`, `nan` or element < 0")


@attrs.frozen(eq=False)
class HostVerdict:
    """The verdict and the scored tree as numpy arrays, from the one copy of the step."""

    length: NDArray[np.int64]
    """``[B]`` accepted nodes, the root included: the number of new tokens."""
    next_token: NDArray[np.int64]
    """``[B]`` the bonus token: the next root. :data:`NO_TOKEN` behind the end of a row only."""
    path: NDArray[np.int64]
    """``[B, N]`` columns of the accepted nodes, the root first; only ``length`` of them count."""
    tokens: NDArray[np.int64]
    """``[B, N]``"""
    parent: NDArray[np.int64]
    """``[B, N]``"""
    count: NDArray[np.int64]
    """``[B]``"""
    source: NDArray[np.int64]
    """``[B, N]``"""
    faults: NDArray[np.int64]
    """``[B]`` bit set of :data:`racer.step.draft_tree.FAULTS`, zero for a well-formed draft."""
    top_ids: NDArray[np.int64]
    """``[B, N, k]`` the best next tokens of every node, accepted or not; k as the drafters need."""
    top_probs: NDArray[np.float32] | None
    """``[B, N, k]`` their probabilities, if some drafter needs them."""

    def head(self, width: int) -> HostVerdict:
        """Without the columns from ``width`` on, which are padding."""
        cut = ("path", "tokens", "parent", "source", "top_ids", "top_probs")
        parts: dict[str, Any] = {name: part[:, :width] for name in cut if (part := getattr(self, name)) is not None}
        return attrs.evolve(self, **parts)

    def of_rows(self, rows: Sequence[int]) -> HostVerdict:
        """The same of these rows alone."""
        return self._each(lambda part: part[list(rows)])

    def copy(self) -> HostVerdict:
        """The same in memory of its own: on the CPU it may lie where the next step writes."""
        return self._each(lambda part: part.copy())

    def _each(self, change: Callable[[NDArray[Any]], NDArray[Any]]) -> HostVerdict:
        parts: dict[str, Any] = {field.name: getattr(self, field.name) for field in attrs.fields(HostVerdict)}
        changed: dict[str, Any] = {name: None if part is None else change(part) for name, part in parts.items()}
        return HostVerdict(**changed)

    def accepted(self, row: int) -> list[int]:
        """Tokens that the step adds to ``row``: accepted drafts and the bonus token."""
        drafts = self.tokens[row, self.path[row, 1 : self.length[row]]].tolist()
        return [*drafts, int(self.next_token[row])]


@attrs.define(eq=False)
class Verdict:
    """What the verifier decided, on the device. ``to_host`` is the step's only synchronisation."""

    path: Tensor
    """``[B, N]`` int64: columns of the accepted nodes in order, the root first; rows are filled up with 0."""
    length: Tensor
    """``[B]`` int64: accepted nodes, the root included."""
    next_token: Tensor
    """``[B]`` int64: the token after the last accepted node."""
    top_ids: Tensor | None = None
    """``[B, N, k]`` int64, set by the executor as the drafters need."""
    top_probs: Tensor | None = None
    """``[B, N, k]`` float32."""
    host: HostVerdict | None = None
    """Set by :meth:`to_host`; there when ``racer_step`` is called."""

    def of_rows(self, rows: Sequence[int]) -> Verdict:
        """The same of these rows alone."""
        index = list(rows)
        ids, probs = (None if part is None else part[index] for part in (self.top_ids, self.top_probs))
        host = None if self.host is None else self.host.of_rows(index)
        return Verdict(self.path[index], self.length[index], self.next_token[index], ids, probs, host)

    def to_host(self, tree: DraftTree, faults: Tensor, *, top: bool = True) -> HostVerdict:
        """Fetch everything the host needs in ONE copy (none on the CPU) and keep it as ``self.host``.

        :param top: whether the best next tokens travel too.
        """
        self.host = host_verdict(_one_copy(self.parts(tree, faults, top=top)))
        return self.host

    def hide_missing(self) -> None:
        """Where rows have ended before :data:`NO_TOKEN`, let nobody take it for a token."""
        if self.host is not None and (self.host.next_token == NO_TOKEN).any():
            self.next_token = self.next_token.clamp(min=0)
            self.host = attrs.evolve(self.host, next_token=self.host.next_token.clip(min=0))

    def parts(self, tree: DraftTree, faults: Tensor, *, top: bool = True) -> dict[str, Tensor]:
        """Everything the host needs: the parts of a :class:`HostVerdict`, int64 but for ``top_probs``."""
        batch, width = tree.tokens.shape
        source = tree.source if tree.source is not None else torch.zeros_like(tree.tokens)
        shown = top and self.top_ids is not None
        top_ids = self.top_ids if self.top_ids is not None and shown else tree.tokens.new_empty(batch, width, 0)
        top_probs = self.top_probs if shown else None
        return {
            "length": self.length,
            "next_token": self.next_token,
            "path": self.path,
            "tokens": tree.tokens,
            "parent": tree.parent,
            "count": tree.count,
            "source": source,
            "faults": faults,
            "top_ids": top_ids,
            **({} if top_probs is None else {"top_probs": top_probs.float()}),
        }


def host_verdict(parts: dict[str, NDArray[Any]]) -> HostVerdict:
    """From the arrays of :meth:`Verdict.parts`."""
    whole: dict[str, Any] = {"top_probs": None, **parts}
    return HostVerdict(**whole)


def _one_copy(parts: dict[str, Tensor]) -> dict[str, NDArray[Any]]:
    """Tensors as numpy arrays; from an accelerator they come packed into a single copy."""
    if all(part.device.type == "cpu" for part in parts.values()):
        return {name: part.numpy() for name, part in parts.items()}
    return _packed(parts)


def _packed(parts: dict[str, Tensor]) -> dict[str, NDArray[Any]]:
    return unpack(pack(parts).cpu().numpy(), {name: part.shape for name, part in parts.items()})


def pack(parts: dict[str, Tensor]) -> Tensor:
    """int64 tensors one behind the other, in one flat tensor, and of :data:`FLOATS` the bits."""
    whole = (part.view(torch.int32).long() if name in FLOATS else part for name, part in parts.items())
    return torch.cat([part.reshape(-1) for part in whole])


def unpack(flat: NDArray[np.int64], shapes: Mapping[str, Sequence[int]]) -> dict[str, NDArray[Any]]:
    """The inverse of :func:`pack`, on the host."""
    ends = np.cumsum([math.prod(shape) for shape in shapes.values()])
    pieces = zip(shapes.items(), np.split(flat[: ends[-1]], ends[:-1]), strict=True)
    return {
        name: (piece.astype(np.int32).view(np.float32) if name in FLOATS else piece).reshape(shape)
        for (name, shape), piece in pieces
    }
