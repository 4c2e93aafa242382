"""What plugins are shown of the state before a step, and what drafters may ask to be shown of its nodes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Sequence
from functools import cached_property
from typing import Any, ClassVar, Protocol

import attrs
import torch
from torch import Tensor

from racer.step.cost_curve import CostCurve
from racer.step.request import Request, signed_seeds


@attrs.frozen(eq=False)
class Prefix:
    """What stands before a token: a row's text, and behind it tokens of its tree."""

    row: int
    """In the batch as it is."""
    request: Request
    path: Sequence[int] = ()
    """Drafted tokens behind the text."""

    def __len__(self) -> int:
        """Tokens, padding included, as logits processors count them."""
        return len(self.request.padding) + self.position

    @property
    def position(self) -> int:
        """Of the token that comes next, padding not counted."""
        return len(self.request.tokens) + len(self.path)


class PlacedPipeline(Protocol):
    """The logits processors at certain places, whose prefixes are known."""

    def batch(self, logits: Tensor) -> Tensor:
        """Processed scores ``[M, V]`` of ``logits [M, V]``."""

    def draw(self, logits: Tensor, seeds: Tensor, positions: Tensor) -> Tensor:
        """``[M]`` sampled tokens of ``logits [M, V]``, each a function of its row, seed and position alone; on a CPU.
        Where no token can be drawn, as scores are NaN or infinite or all of them -inf,
        :data:`racer.step.verdict.NO_TOKEN`.

        :param seeds: ``[M]`` int64.
        :param positions: ``[M]`` int64: those of the tokens to draw.
        """


class LogitsPipeline(PlacedPipeline, Protocol):
    """The logits processors of one call, as verifiers see them.

    If they are free of context, it can be asked at once about all places; otherwise :meth:`at` has to be told them.
    """

    context_free: bool
    """Whether no processor reads the prefix, so that all nodes can be processed in one batch."""
    remembers: bool
    """Whether a processor may keep a memory: then it must be asked about each place of the accepted path once, in
    order, and about no other. Otherwise it may be asked about any."""

    @property
    def signature(self) -> Hashable | None:
        """Equal for pipelines that do the same, ``()`` for one that does nothing; None if one of its processors cannot
        be part of a CUDA graph."""

    def at(self, prefixes: Sequence[Prefix]) -> PlacedPipeline:
        """The processors after each of M prefixes."""

    def likely(self, logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The ``k`` best tokens ``[M, k]`` of ``logits [M, V]``, best first, and ``[M, k]`` about how likely they are
        to be drawn; for drafters. ``k`` is cut to V."""

    def of_rows(self, rows: Sequence[int]) -> LogitsPipeline:
        """The same for the batch that is left when of its rows only these stay."""


@attrs.frozen(eq=False)
class StepView:
    """The state before a step. Plugins read it and change nothing: they get copies of its tensors (:attr:`shown`).

    Where steps are captured (``DecodeConfig.compile``), the tensors of a step's tree and verdict are overwritten by the
    next one: whoever wants to keep them makes a copy.
    """

    requests: tuple[Request, ...]
    """One per row. Finished rows are ignored while they stay, and leave when the rest fits into the next smaller power
    of two: state that outlives a step is kept by ``request.id``, never by row."""
    active: tuple[bool, ...]
    """Rows that were not finished when the step began."""
    _root: Tensor
    _position: Tensor
    vocab_size: int
    pipeline: LogitsPipeline
    do_sample: bool
    stop_tokens: frozenset[int] = frozenset()
    """Ids that end a row."""
    stops_ahead: Callable[[Request, Sequence[int]], bool] | None = None
    """Whether a row ends with the last of these tokens behind its text, by the call's stopping criteria: to be asked
    about each token of the accepted path, in order, before a processor with a memory is asked what follows it."""
    step_cost: CostCurve = attrs.field(factory=CostCurve)
    """Measured milliseconds of a step over so many nodes, on this model, device and batch, at about this context."""
    step: int = 0
    """Steps before this one."""
    _seeds: Tensor = attrs.field(
        default=attrs.Factory(lambda view: signed_seeds(view.requests, view.device), takes_self=True)
    )
    verifier: Any = None
    """Who verifies this call, a :class:`racer.Verifier`."""
    places: tuple[int, ...] = attrs.field(
        default=attrs.Factory(lambda view: tuple(len(request.tokens) - 1 for request in view.requests), takes_self=True)
    )
    """The same as ``position``, on the host."""
    chain: bool = False
    """Whether the model takes a single path: then a tree's best one is scored (:mod:`racer.step.best_path`)."""
    joined: bool = False
    """Whether other rows may join the batch, so that it has no last row that all wait for."""
    _copies: bool = False
    """Whether tensors are shown as copies, a new one each time."""

    @cached_property
    def shown(self) -> StepView:
        """What plugins are shown of it: whatever they write into a tensor is lost."""
        return self if self._copies else attrs.evolve(self, copies=True)

    @property
    def root(self) -> Tensor:
        """``[B]`` int64, on the model's device: the pending tokens. The same as each ``request.tokens[-1]``."""
        return self._root.clone() if self._copies else self._root

    @property
    def position(self) -> Tensor:
        """``[B]`` int64, on the model's device: the root's position, padding not counted."""
        return self._position.clone() if self._copies else self._position

    @property
    def seeds(self) -> Tensor:
        """``[B]`` int64, on the model's device: the requests' seeds."""
        return self._seeds.clone() if self._copies else self._seeds

    def of_rows(self, rows: Sequence[int]) -> StepView:
        """The same of these rows alone, for a drafter that is asked about no others."""
        index = list(rows)
        return attrs.evolve(
            self,
            requests=tuple(self.requests[row] for row in index),
            active=tuple(self.active[row] for row in index),
            places=tuple(self.places[row] for row in index),
            root=self._root[index],
            position=self._position[index],
            seeds=self._seeds[index],
        )

    @property
    def device(self) -> torch.device:
        return self._root.device

    @property
    def remaining(self) -> int:
        """Tokens that may still be emitted by the row that has most left."""
        return max((request.remaining for request in self.requests if not request.done), default=0)


def _whole_number(_: Any, field: attrs.Attribute[int], value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{field.name} must be a whole number of positions (Needs.ALL for all), not {value!r}")


@attrs.frozen
class Needs:
    """What a drafter wants to see of each scored node. The union over all drafters is computed once."""

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
    optional: bool = False
    """Whether it drafts without them too, where nobody can show them (:class:`racer.drafting.Session`)."""

    def __or__(self, other: Needs) -> Needs:
        return Needs(
            top_k=max(self.top_k, other.top_k),
            probs=self.probs or other.probs,
            prompt=max(self.prompt, other.prompt),
            host=self.host or other.host,
            optional=self.optional and other.optional,
        )
