"""Compiling what decoding will call, before anybody's clock runs."""

from __future__ import annotations

import logging
from functools import cache

import numpy as np

from racer.strategies.context import history, voices
from racer.strategies.context.blends import Blends
from racer.strategies.context.compiled import is_kept
from racer.strategies.context.cues import Cues
from racer.strategies.context.growth import Desk, Growth, grow
from racer.strategies.context.hashing import context_of
from racer.strategies.context.hints import Hints
from racer.strategies.context.history import GRAM, History
from racer.strategies.context.learning import calibrate, observe
from racer.strategies.context.memory import Memory, Row
from racer.strategies.context.odds import SIZE
from racer.strategies.context.start import fitted_odds

log = logging.getLogger(__name__)


@cache
def make_ready() -> None:
    """Compile the drafter's inner loops, or load them from the disk; only the first call in a process does anything.

    They compile as they are called, so this draws and learns one tree, in a memory of the smallest size, with
    arguments of the very types that :class:`~racer.strategies.context.drafter.Racer` gives them.
    """
    if not is_kept(grow):
        log.warning("compiling the drafter for this machine: about 20 seconds, once")
    heard = np.ones(voices.VOICES, np.bool_)
    memory = Memory(Cues.of(2, 1), Blends.of(2, 1), History.of(16), fitted_odds(), heard)
    row, growth = Row(History.of(16), History.of(16), Hints.of(1)), Growth.of(2)
    history.append(row.text, np.zeros(2, np.int32), GRAM)
    root = context_of([0, 0], 2)
    drafted = grow(memory, row, root, 2, 0.0, growth, Desk.of(2, 1))
    accepted, scored = np.ones(1, np.bool_), slice(0, 1)
    calibrate(memory.odds, row.hints, growth, drafted, accepted, 0, 0, np.empty(SIZE, np.float32))
    ids, probs = np.zeros((1, 1), np.int32), np.ones((1, 1), np.float32)
    tokens, parent = growth.tokens[scored].astype(np.int64), growth.parent[scored].astype(np.int64)
    observe(memory, row.hints, root, tokens, parent, growth.score[scored], accepted, ids, probs)
