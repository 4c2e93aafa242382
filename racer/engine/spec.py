"""What is to be decoded."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs
from torch import Tensor

from racer.core.prompt_pieces import PreparedCall
from racer.core.support import Support
from racer.engine.outside_cache import OutsideCache
from racer.engine.recording import ScoreRecord
from racer.step.request import Request
from racer.step.view import LogitsPipeline


@attrs.frozen(kw_only=True, eq=False)
class BatchSpec:
    """What to decode: a batch of prompts and how their text is chosen and ended."""

    requests: tuple[Request, ...]
    pipeline: LogitsPipeline
    do_sample: bool = False
    stop_tokens: frozenset[int] = frozenset()
    """Ids that end a row; the id itself is emitted."""
    stops: Callable[[Request], bool] | None = None
    """Asked after every token of a row."""
    stops_ahead: Callable[[Request, Sequence[int]], bool] | None = None
    """See :attr:`racer.step.view.StepView.stops_ahead`; what it said, :attr:`stops` knows."""
    foresee: Callable[[Sequence[tuple[Request, Sequence[int]]]], None] | None = None
    """Called with the tokens that a step gives to each row, before :attr:`stops` is asked about them."""
    settle: Callable[[Sequence[Request]], None] | None = None
    """Called with all rows after each step; it may end rows, and cut their last tokens. A row for which no token can be
    drawn is done, short of its end: whether that is an error is said here."""
    fails: Callable[[Request, Exception], None] | None = None
    """Told of a row for which no token can be chosen; it ends, and the others go on. None: the call fails."""
    emit: Callable[[int, int], None] | None = None
    """Told of every token: ``emit(row, token)``."""
    scored: Callable[[int, Tensor], None] | None = None
    """Told of the logits ``[n, V]`` by which a row's ``n`` new tokens were chosen: ``scored(row, logits)``."""
    joined: bool = False
    """Whether rows may join the batch while it is decoded."""
    record: ScoreRecord | None = None
    """Where the scores of emitted tokens are kept, if they are wanted; steps then run in dynamic shapes."""
    outside: OutsideCache | None = None
    """The cache that is gone on from or filled, if there is one."""
    support: Support | None = None
    """What the model can do in this call, if it was looked at for it already."""
    prepared: PreparedCall | None = None
    """What transformers prepared for its own loop: models that take no trees are decoded with it, and prompts with
    images and the like are scored with it."""

    @property
    def keeps_logits(self) -> bool:
        """Whether anybody wants to see the logits of emitted tokens."""
        return self.record is not None or self.scored is not None

    @property
    def unseen(self) -> int:
        """Slots of the cache before the first token that the requests have."""
        return 0 if self.outside is None else self.outside.unseen

    @property
    def slots(self) -> int:
        """Slots that the longest row may take."""
        return self.unseen + max(
            len(request.padding) + len(request.prompt) + request.limit for request in self.requests
        )

    @property
    def padding(self) -> Sequence[int]:
        """Masked slots at the left of each row."""
        return [len(request.padding) for request in self.requests] if self.outside is None else self.outside.padding
