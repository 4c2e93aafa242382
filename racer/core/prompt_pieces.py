"""A prompt on its way through a model: in pieces, or at once, as transformers' own loop would score it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import attrs
from torch import Tensor

KEEP = "logits_to_keep"


@attrs.frozen(eq=False)
class PromptPiece:
    """Columns of a left-padded prompt whose logits were asked for."""

    start: int
    """The first of them: its slot in the cache."""
    tokens: Tensor
    """``[B, C]``"""
    logits: Tensor
    """``[B, C, V]``"""


@attrs.frozen(eq=False)
class PreparedCall:
    """What transformers gives to its decoding loop."""

    input_ids: Tensor
    """``[B, P]``"""
    settings: Any
    """The generation configuration."""
    arguments: Mapping[str, Any]
    """The model's: masks, positions, images and the like."""
    pad: int = 0
    """The token after the end of a row that ends before others."""
    keeps_cache: bool = False
    """Whether somebody will see the cache when the call is over."""
    offset: Tensor | None = None
    """``[B, 1]``, or ``[planes, B, 1]`` for a model that has so many planes of positions: how much further than its
    text the positions of a row's new tokens are, as after an image that takes fewer of them than tokens. None: 0."""

    def score(
        self, model: Any, arguments: dict[str, Any], *, takes_keep: bool, chunk: int, keep: int
    ) -> tuple[PromptPiece, Any]:
        """Score the whole prompt as transformers does, with the model's own preparation: the last ``keep`` columns, or
        as many as the model shows, and its output.

        :param arguments: the call's, with the cache that is to be filled.
        :param takes_keep: whether the model can leave out logits.
        :param chunk: no piece is shown that is larger.
        """
        width = self.input_ids.shape[1]
        keep = min(keep, chunk, width)
        output = model._prefill(self.input_ids, self.settings, arguments | ({KEEP: keep} if takes_keep else {}))
        logits = output.logits[:, -keep:]
        shown = logits.shape[1]
        return PromptPiece(width - shown, self.input_ids[:, -shown:], logits), output


def pieces(width: int, chunk: int, wide: int, keep: int) -> Iterator[tuple[int, int, int]]:
    """Start and stop of each piece of a prompt, and how many of its last columns are among the prompt's last ``keep``.

    At most ``chunk`` of a piece's columns are, and at most ``wide`` columns there are.
    """
    first, start = max(width - keep, 0), 0
    while start < width:
        stop = min(start + wide, max(start, first) + chunk, width)
        yield start, stop, max(stop - max(start, first), 0)
        start = stop
