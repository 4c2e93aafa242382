"""What travels through one step: the requests, the view a plugin gets, the verdict, the bill."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from racer.costs import CostCurve
from racer.tree import DraftTree

_ids = itertools.count()


@attrs.define(eq=False)
class Request:
    """One row of one ``generate`` call, from its prompt to its last token."""

    prompt: tuple[int, ...]
    """The prompt without padding."""
    padding: tuple[int, ...] = ()
    """The padding ids to the left of the prompt; logits processors see them, as in ``generate``."""
    limit: int = 2**31
    """New tokens it may have."""
    seed: int = 0
    """Keys the noise of this row's sampled tokens."""
    id: int = attrs.field(factory=lambda: next(_ids))
    """Unique in this process."""
    tokens: list[int] = attrs.field(init=False)
    """Prompt and emitted tokens; the last one is the next root. Append-only while the request is open."""
    accept_lengths: list[int] = attrs.field(factory=list)
    """New tokens of each step, the bonus token included."""
    done: bool = False

    def __attrs_post_init__(self) -> None:
        self.tokens = list(self.prompt)

    @property
    def emitted(self) -> list[int]:
        return self.tokens[len(self.prompt) :]

    @property
    def remaining(self) -> int:
        return len(self.prompt) + self.limit - len(self.tokens)


class LogitsPipeline(Protocol):
    """The logits processors of one call, as verifiers see them."""

    context_free: bool
    """Whether no processor reads the prefix, so that all nodes can be processed in one batch."""

    def batch(self, logits: Tensor) -> Tensor:
        """Processed scores ``[M, V]`` of ``logits [M, V]``; for context-free pipelines."""

    def draw(self, logits: Tensor, seeds: Tensor, positions: Tensor) -> Tensor:
        """``[M]`` sampled tokens of ``logits [M, V]``, each a function of its row, seed and position alone.

        For context-free pipelines, on a CPU.

        :param seeds: ``[M]`` int64.
        :param positions: ``[M]`` int64: those of the tokens to draw.
        """

    def likely(self, logits: Tensor, values: Tensor) -> Tensor:
        """``[M, k]`` about how likely each row's k best tokens are to be drawn; for drafters.

        :param logits: ``[M, V]``
        :param values: ``[M, k]`` the k best of each row, best first.
        """

    def one(self, prefix: Sequence[int], logits: Tensor, row: int) -> Tensor:
        """Processed scores ``[V]`` of ``logits [V]`` after ``prefix`` (padding included) in batch row ``row``."""

    def of_rows(self, rows: Sequence[int]) -> LogitsPipeline:
        """The same for the batch that is left when of its rows only these stay."""


@attrs.define(eq=False)
class Settled:
    """What one step of one call settles on its way. Kept apart from strategies, which several calls may share."""

    verifier: Any = None
    """Who verifies this call."""
    budget: int = 0
    """Nodes that the step may score."""
    verdict: Verdict | None = None
    """What the configured verifier said, before any plugin around it."""
    captured: Verdict | None = None
    """What the configured verifier says, where it was run with the forward pass in one graph."""


def signed_seeds(requests: Sequence[Request], device: torch.device) -> Tensor:
    """``[B]`` the requests' seeds, as torch's int64 holds 64 bits."""
    return torch.tensor([(request.seed + 2**63) % 2**64 - 2**63 for request in requests], device=device)


@attrs.frozen(eq=False)
class StepView:
    """The state before a step. Plugins read it and change nothing.

    Where steps are captured (``DecodeConfig.compile``), the tensors of a step's tree and verdict are overwritten by the
    next one: whoever wants to keep them makes a copy.
    """

    requests: tuple[Request, ...]
    """One per row. Finished rows are ignored while they stay, and leave when the rest fits into the next smaller power
    of two: state that outlives a step is kept by ``request.id``, never by row."""
    active: tuple[bool, ...]
    """Rows that were not finished when the step began."""
    root: Tensor
    """``[B]`` int64, on the model's device: the pending tokens. The same as each ``request.tokens[-1]``."""
    position: Tensor
    """``[B]`` int64, on the model's device: the root's position, padding not counted."""
    vocab_size: int
    pipeline: LogitsPipeline
    do_sample: bool
    stop_tokens: frozenset[int] = frozenset()
    """Ids that end a row."""
    step_cost: CostCurve = attrs.field(factory=CostCurve)
    """Measured milliseconds of a step over so many nodes, on this model, device and batch."""
    step: int = 0
    """Steps before this one."""
    seeds: Tensor = attrs.field(
        default=attrs.Factory(lambda view: signed_seeds(view.requests, view.device), takes_self=True)
    )
    """``[B]`` int64, on the model's device: the requests' seeds."""
    settled: Settled = attrs.field(factory=Settled)
    places: tuple[int, ...] = attrs.field(
        default=attrs.Factory(lambda view: tuple(len(request.tokens) - 1 for request in view.requests), takes_self=True)
    )
    """The same as ``position``, on the host."""

    @property
    def device(self) -> torch.device:
        return self.root.device

    @property
    def remaining(self) -> int:
        """Tokens that may still be emitted by the row that has most left."""
        return max((request.remaining for request in self.requests if not request.done), default=0)


def _whole_number(_: Any, field: attrs.Attribute[int], value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{field.name} must be a whole number of positions (Needs.ALL for all), not {value!r}")


@attrs.frozen
class Needs:
    """What a drafter wants to see of each scored node. The core computes the union over all drafters once."""

    ALL: ClassVar[int] = sys.maxsize

    top_k: int = attrs.field(default=0, validator=attrs.validators.ge(0))
    """Ids of the k best next tokens of every node."""
    probs: bool = False
    """Also their probabilities (costs a log-sum-exp over the vocabulary)."""
    prompt: int = attrs.field(default=0, validator=[_whole_number, attrs.validators.ge(0)])
    """For so many of the prompt's last positions too, the rows of a batch together; ``Needs.ALL`` for all. Each costs
    about what a node of a tree costs in the model's head: a fifth of a small model's arithmetic."""
    host: bool = True
    """Observes numpy arrays (they travel in the step's one copy); False: reads the device tensors."""

    def __or__(self, other: Needs) -> Needs:
        return Needs(
            top_k=max(self.top_k, other.top_k),
            probs=self.probs or other.probs,
            prompt=max(self.prompt, other.prompt),
            host=self.host or other.host,
        )


@attrs.frozen(eq=False)
class HostVerdict:
    """The verdict and the scored tree as numpy arrays, from the one copy of the step."""

    length: NDArray[np.int64]
    """``[B]`` accepted nodes, the root included: the number of new tokens."""
    next_token: NDArray[np.int64]
    """``[B]`` the bonus token: the next root."""
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
    """``[B]`` bit set of :data:`racer.tree.FAULTS`, zero for a well-formed draft."""
    top_ids: NDArray[np.int64]
    """``[B, N, k]`` the best next tokens of every node, accepted or not; k as the drafters need."""
    top_probs: NDArray[np.float32] | None
    """``[B, N, k]`` their probabilities, if some drafter needs them."""

    def head(self, width: int) -> HostVerdict:
        """Without the columns from ``width`` on, which are padding."""
        cut = ("path", "tokens", "parent", "source", "top_ids", "top_probs")
        parts: dict[str, Any] = {name: part[:, :width] for name in cut if (part := getattr(self, name)) is not None}
        return attrs.evolve(self, **parts)

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
    """``[B, N, k]`` int64, set by the core as the drafters need."""
    top_probs: Tensor | None = None
    """``[B, N, k]`` float32."""
    host: HostVerdict | None = None
    """Set by :meth:`to_host`; there when ``racer_step`` is called."""

    def to_host(self, tree: DraftTree, faults: Tensor, *, cues: bool = True) -> HostVerdict:
        """Fetch everything the host needs in ONE copy (none on the CPU) and keep it as ``self.host``.

        :param cues: whether the best next tokens travel too.
        """
        self.host = host_verdict(_one_copy(**self.parts(tree, faults, cues=cues)))
        return self.host

    def parts(self, tree: DraftTree, faults: Tensor, *, cues: bool = True) -> dict[str, Tensor]:
        """Everything the host needs, as int64 tensors: what :func:`host_verdict` takes once it is there."""
        batch, width = tree.tokens.shape
        source = tree.source if tree.source is not None else torch.zeros_like(tree.tokens)
        shown = cues and self.top_ids is not None
        top_ids = self.top_ids if self.top_ids is not None and shown else tree.tokens.new_empty(batch, width, 0)
        bits = None if self.top_probs is None or not shown else self.top_probs.float().view(torch.int32).long()
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
            **({} if bits is None else {"top_probs": bits}),
        }


def host_verdict(parts: dict[str, NDArray[np.int64]]) -> HostVerdict:
    """From the arrays of :meth:`Verdict.parts`."""
    probs = parts.get("top_probs")
    return HostVerdict(
        **{name: part for name, part in parts.items() if name != "top_probs"},
        top_probs=None if probs is None else probs.astype(np.int32).view(np.float32),
    )


def _one_copy(**parts: Tensor) -> dict[str, Any]:
    """Integer tensors as numpy arrays; from an accelerator they come packed into a single copy."""
    if all(part.device.type == "cpu" for part in parts.values()):
        return {name: part.numpy() for name, part in parts.items()}
    return _packed(**parts)


def _packed(**parts: Tensor) -> dict[str, Any]:
    return unpack(pack(parts).cpu().numpy(), {name: part.shape for name, part in parts.items()})


def pack(parts: dict[str, Tensor]) -> Tensor:
    """Integer tensors one behind the other, in one flat tensor."""
    return torch.cat([part.reshape(-1) for part in parts.values()])


def unpack(flat: NDArray[np.int64], shapes: Mapping[str, Sequence[int]]) -> dict[str, NDArray[np.int64]]:
    """The inverse of :func:`pack`, on the host."""
    ends = np.cumsum([math.prod(shape) for shape in shapes.values()])
    pieces = np.split(flat[: ends[-1]], ends[:-1])
    return {name: piece.reshape(shape) for (name, shape), piece in zip(shapes.items(), pieces, strict=True)}


@attrs.frozen
class StepStats:
    """The bill of one step."""

    nodes: int
    """Columns of the tree that the forward pass scored."""
    new_tokens: tuple[int, ...]
    """Per row; 0 for finished rows."""
    milliseconds: dict[str, float]
    """Per phase (``draft``, ``forward``, ``verify``, ``commit``). On an accelerator known only when the request
    closes, so empty here."""
