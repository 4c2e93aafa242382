"""A cache of transformers' that a call goes on from, and leaves as plain decoding would."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, cast

import attrs
import torch
from torch import Tensor

from racer.core.kv_cache import TreeCache
from racer.core.model_runner import ModelRunner
from racer.step.draft_tree import DraftTree

if TYPE_CHECKING:
    from racer.engine.batch import BatchState

PIECE = 256
"""Columns of pad tokens that are scored at once."""


class OutsideCache(Protocol):
    """Somebody else's cache of a batch's keys and values. Its slots are counted with padding, the same for all rows."""

    @property
    def padding(self) -> Sequence[int]:
        """Masked slots at the left of each row."""

    @property
    def length(self) -> int:
        """Slots that it holds already: the prompt is scored from there on."""

    @property
    def unseen(self) -> int:
        """Slots whose tokens are not among the requests': only what came after them was given."""

    def load(self, cache: TreeCache) -> None:
        """Put what it holds into ``cache``, which is empty."""

    def store(self, states: FinalStates) -> None:
        """Take what is new."""


@attrs.frozen(eq=False, kw_only=True)
class FinalStates:
    """Keys and values of a whole batch when its call is over."""

    runner: ModelRunner
    cache: TreeCache
    """All rows of the batch, each up to its last token but one."""
    length: int
    """Slots of the longest row without its last token; what plain decoding leaves in its cache."""
    tails: tuple[int, ...]
    """Each row's last token."""
    last_position: int

    @property
    def complete(self) -> bool:
        """Whether all rows have ended at the same length."""
        return min(self.cache.lengths) >= self.length

    def complete_with(self, pad: int) -> TreeCache:
        """Score pad tokens after rows that have ended before others, as plain decoding does; the filled cache.

        Nobody should look at them, but a mask may let them through, and then the next text depends on them.
        """
        missing = [self.length - length for length in self.cache.lengths]
        device = self.runner.model.device
        for start in range(0, max(missing), PIECE):
            counts = [min(max(count - start, 0), PIECE) for count in missing]
            tokens = torch.full((len(counts), max(counts)), pad, device=device)
            if start == 0:
                tokens[:, 0] = torch.tensor(self.tails, device=device)
            chain = DraftTree.chain(tokens, torch.tensor(counts, device=device).clamp(min=1))
            self.runner.forward(chain, self.cache, self.last_position, keep=1)
            self.cache.commit(_columns(tokens), counts)
        return self.cache


def final_states(batch: BatchState) -> FinalStates:
    """What a batch that is done has in its cache, together with what rows that left had there."""
    spec, cache, runner = batch.spec, cast(TreeCache, batch.cache), cast(ModelRunner, batch.runner)
    lengths = [batch.slots(request) - 1 for request in spec.requests]
    length = max(lengths)
    if batch.left or min(lengths) < length:
        whole = runner.open(list(spec.padding), length)
        for place, row in enumerate(batch.rows):
            whole.put_row(row, cache.row(place, lengths[row]))
        for row, states in batch.left.items():
            whole.put_row(row, [part[:, :, : lengths[row]] for part in states])  # it may have been cut since it left
        whole.lengths, cache = lengths, whole
    return FinalStates(
        runner=runner,
        cache=cache,
        length=length,
        tails=tuple(request.tokens[-1] for request in spec.requests),
        last_position=batch.last_position,
    )


def _columns(tokens: Tensor) -> Tensor:
    return torch.arange(tokens.shape[1], device=tokens.device).expand(len(tokens), -1)
