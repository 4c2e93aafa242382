"""All that the drafter knows, as arrays: what requests share, and what one request knows of itself."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from racer.kernels.jit import compiled
from racer.strategies.context import history, running_means, top_k_table
from racer.strategies.context.estimator import Estimator
from racer.strategies.context.hashing import Context
from racer.strategies.context.history import GRAM, History
from racer.strategies.context.recent import Recent
from racer.strategies.context.running_means import RunningMeans
from racer.strategies.context.top_k_table import TopKTable


class Memory(NamedTuple):
    """What all requests share."""

    top_k: TopKTable
    means: RunningMeans
    past: History
    """Texts that have ended."""
    estimator: Estimator
    enabled: NDArray[np.bool_]
    """``[FEATURES]`` which features are used; the others count as missing."""


class Row(NamedTuple):
    """What one request knows of itself."""

    text: History
    singles: History
    """The same text, in which single tokens are looked up."""
    recent: Recent


@compiled
def prefetch_tables(memory: Memory, context: Context) -> None:
    """The tables will be asked about ``context`` soon: so they need not be waited for then.

    A forward pass leaves nothing of them in the processor's caches.
    """
    top_k_table.prefetch_context(memory.top_k, context)
    running_means.prefetch_context(memory.means, context)


@compiled
def append_text(row: Row, tokens: NDArray[np.int32]) -> None:
    """Append ``tokens`` to the row's text."""
    history.append(row.text, tokens, GRAM)
    history.append(row.singles, tokens, 1)


@compiled
def last_context(row: Row, context: Context) -> None:
    """Fill ``context`` with the row's last tokens, the latest first."""
    end = row.text.length[0]
    for i in range(len(context)):
        context[i] = history.token_at(row.text, end - 1 - i)
