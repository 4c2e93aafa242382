"""All that the drafter knows, as arrays: what requests share, and what one request knows of itself."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from racer.strategies.context.blends import Blends
from racer.strategies.context.cues import Cues
from racer.strategies.context.hints import Hints
from racer.strategies.context.history import History
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
