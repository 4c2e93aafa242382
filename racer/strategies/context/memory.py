"""All that the drafter knows, as arrays: what requests share, and what one request knows of itself."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from racer.kernels.jit import compiled
from racer.strategies.context import blends, cues, history
from racer.strategies.context.blends import Blends
from racer.strategies.context.cues import Cues
from racer.strategies.context.hashing import Context
from racer.strategies.context.hints import Hints
from racer.strategies.context.history import GRAM, History
from racer.strategies.context.odds import Odds


class Memory(NamedTuple):
    """What all requests share."""

    cues: Cues
    blends: Blends
    past: History
    """Texts that have ended."""
    odds: Odds
    heard: NDArray[np.bool_]
    """``[VOICES]`` who is listened to; the others count as silent."""


class Row(NamedTuple):
    """What one request knows of itself."""

    text: History
    singles: History
    """The same text, in which single tokens are looked up."""
    hints: Hints


@compiled
def expect(memory: Memory, context: Context) -> None:
    """The tables will be asked about ``context`` soon: so they need not be waited for then.

    A forward pass leaves nothing of them in the processor's caches.
    """
    cues.expect(memory.cues, context)
    blends.expect(memory.blends, context)


@compiled
def read(row: Row, tokens: NDArray[np.int32]) -> None:
    """Append ``tokens`` to the row's text."""
    history.append(row.text, tokens, GRAM)
    history.append(row.singles, tokens, 1)


@compiled
def last_context(row: Row, context: Context) -> None:
    """Fill ``context`` with the row's last tokens, the latest first."""
    end = row.text.length[0]
    for i in range(len(context)):
        context[i] = history.token_at(row.text, end - 1 - i)
