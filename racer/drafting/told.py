"""What an engine tells a session, and what it is told."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import attrs
import numpy as np
from numpy.typing import ArrayLike, NDArray


@attrs.frozen(eq=False)
class Told:
    """What has become of one text since its last draft.

    Without ``tokens`` the session takes what was emitted for all that was scored: it learns which guesses were right,
    and nothing of rejected ones. Nothing needs to be told of the draft that was scored: it may be the session's, a part
    of it, or none.
    """

    key: Hashable
    """Of a text that is open."""
    emitted: Sequence[int] = ()
    """The text's new tokens: drafted ones that were accepted, and the token after them. None yet if empty."""
    tokens: ArrayLike | None = None
    """``[N]`` what was scored: the text's last token of before, and the drafted tokens behind it."""
    parents: ArrayLike | None = None
    """``[N]`` index of each one's parent in ``tokens``, -1 for the first; None for a chain."""
    top_ids: ArrayLike | None = None
    """``[N, k]`` the model's best next tokens after each of ``tokens``, best first; -1 where they are not known."""
    top_probs: ArrayLike | None = None
    """``[N, k]`` their probabilities."""


@attrs.frozen(eq=False)
class Draft:
    """Guesses at how one text goes on."""

    tokens: NDArray[np.int64]
    """``[M]`` what may come; a parent before its children. A chain has the next token first."""
    parents: NDArray[np.int64]
    """``[M]`` index of each one's parent in ``tokens``; -1 where that is the text's last token."""
    scores: NDArray[np.float64]
    """``[M]`` estimated probability that the token and all before it are accepted; NaN if the drafter has none."""

    def __len__(self) -> int:
        return len(self.tokens)


@attrs.define
class Figures:
    """Sums over all that a session was told, since it was made."""

    steps: int = 0
    """Times that a text got new tokens."""
    drafted_steps: int = 0
    """Those of them before which something was drafted."""
    drafted: int = 0
    """Tokens that were drafted."""
    accepted: int = 0
    """Drafted tokens that became text."""
    emitted: int = 0
    """New tokens."""

    @property
    def accepted_per_step(self) -> float:
        """Tokens of a step, the one after the accepted drafts included; NaN before the first."""
        return 1 + self.accepted / self.steps if self.steps else float("nan")

    @property
    def accepted_per_drafted_step(self) -> float:
        """The same of steps before which something was drafted. Engines differ in which of the two they report."""
        return 1 + self.accepted / self.drafted_steps if self.drafted_steps else float("nan")
