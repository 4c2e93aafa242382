"""Compiling what decoding will call, before anybody's clock runs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np

from racer.kernels.jit import direct, is_kept
from racer.strategies.context import history
from racer.strategies.context.features import FEATURES
from racer.strategies.context.fitted import unfitted_estimator
from racer.strategies.context.growth import GrownTree, GrowScratch, grow
from racer.strategies.context.history import GRAM, History
from racer.strategies.context.learning import LearnScratch, Scored, learn
from racer.strategies.context.memory import Memory, Row
from racer.strategies.context.recent import Recent
from racer.strategies.context.running_means import RunningMeans
from racer.strategies.context.top_k_table import TopKTable

log = logging.getLogger(__name__)


class ContextKernels(NamedTuple):
    """The drafter's inner loops as machine code."""

    grow: Callable[..., int]
    """:func:`racer.strategies.context.growth.grow`"""
    learn: Callable[..., bool]
    """:func:`racer.strategies.context.learning.learn`"""


@cache
def context_kernels() -> ContextKernels:
    """Compile the drafter's inner loops, or load them from the disk; only the first call in a process does anything.

    They compile as they are called, so this draws and learns one tree, in a memory of the smallest size, with
    arguments of the very types that :class:`~racer.strategies.context.drafter.Racer` gives them.
    """
    if not is_kept(grow):
        log.warning("compiling the drafter for this machine: about 20 seconds, once")
    enabled = np.ones(FEATURES, np.bool_)
    memory = Memory(TopKTable.of(2, 1), RunningMeans.of(2, 1), History.of(16), unfitted_estimator(), enabled)
    row, tree, text = Row(History.of(16), History.of(16), Recent.of(1)), GrownTree.of(2), np.zeros(2, np.int32)
    batch = np.zeros((4, 1, 2), np.int64)
    growing = memory, row, text, 2, False, 2, 0.0, tree, GrowScratch.of(2, 1), batch, batch.view(np.float64), 0
    drafted = grow(*growing)
    nodes, ids, probs = np.zeros((1, 1), np.int64), np.zeros((1, 1, 1), np.int64), np.ones((1, 1, 1), np.float32)
    scored = Scored(nodes, nodes, nodes, nodes[0], ids, probs)
    learning = memory, row, text, tree, drafted, scored, 0, 1, 1, LearnScratch.of(1, 1)
    learn(*learning)
    history.append(memory.past, text, GRAM)
    return ContextKernels(direct(grow, *growing), direct(learn, *learning))
