"""Compiling what decoding will call, before anybody's clock runs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np

from racer.kernels.jit import direct, is_kept
from racer.strategies.context import history, voices
from racer.strategies.context.blends import Blends
from racer.strategies.context.cues import Cues
from racer.strategies.context.growth import Desk, Growth, grow
from racer.strategies.context.hints import Hints
from racer.strategies.context.history import GRAM, History
from racer.strategies.context.learning import Lesson, Scored, learn
from racer.strategies.context.memory import Memory, Row
from racer.strategies.context.start import fitted_odds

log = logging.getLogger(__name__)


class Machine(NamedTuple):
    """The inner loops as machine code."""

    grow: Callable[..., int]
    """:func:`racer.strategies.context.growth.grow`"""
    learn: Callable[..., bool]
    """:func:`racer.strategies.context.learning.learn`"""


@cache
def make_ready() -> Machine:
    """Compile the drafter's inner loops, or load them from the disk; only the first call in a process does anything.

    They compile as they are called, so this draws and learns one tree, in a memory of the smallest size, with
    arguments of the very types that :class:`~racer.strategies.context.drafter.Racer` gives them.
    """
    if not is_kept(grow):
        log.warning("compiling the drafter for this machine: about 20 seconds, once")
    heard = np.ones(voices.VOICES, np.bool_)
    memory = Memory(Cues.of(2, 1), Blends.of(2, 1), History.of(16), fitted_odds(), heard)
    row, growth, said = Row(History.of(16), History.of(16), Hints.of(1)), Growth.of(2), np.zeros(2, np.int32)
    batch = np.zeros((4, 1, 2), np.int64)
    growing = memory, row, said, 2, 2, 0.0, growth, Desk.of(2, 1), batch, batch.view(np.float64), 0
    drafted = grow(*growing)
    nodes, ids, probs = np.zeros((1, 1), np.int64), np.zeros((1, 1, 1), np.int64), np.ones((1, 1, 1), np.float32)
    scored = Scored(nodes, nodes, nodes, nodes[0], ids, probs)
    learning = memory, row, said, growth, drafted, scored, 0, 1, 1, Lesson.of(1, 1)
    learn(*learning)
    history.append(memory.past, said, GRAM)
    return Machine(direct(grow, *growing), direct(learn, *learning))
