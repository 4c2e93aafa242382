"""What the model thought at each scored token: seen where vLLM computes its logits."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from racer.kernels import vocab_search

KEPT = 2
"""Calls of ``compute_logits`` that are kept: log probabilities of prompts call it again in the same step."""


class Best(NamedTuple):
    """The best next tokens of some scored tokens."""

    ids: NDArray[np.int64]
    """``[N, k]`` best first."""
    probs: NDArray[np.float32]
    """``[N, k]``"""

    def part(self, begin: int, end: int) -> Best:
        """Of the scored tokens from ``begin`` to ``end``."""
        return Best(self.ids[begin:end], self.probs[begin:end])


class Cues:
    """The best tokens of each row of logits, taken before samplers and grammars change them.

    :param top_k: how many.
    :param most_rows: calls with more rows are none of a step.
    """

    def __init__(self, top_k: int, most_rows: int) -> None:
        self._top_k, self._most_rows = top_k, most_rows
        self._found: deque[tuple[Tensor, Tensor]] = deque(maxlen=KEPT)

    def watch(self, model: Any, failed: Callable[[Exception], None]) -> None:
        """Wrap ``compute_logits`` of this one model; what it returns is left alone.

        :param failed: told of an error of ours, which goes no further.
        """
        compute = model.compute_logits

        def compute_logits(*arguments: Any, **named: Any) -> Any:
            logits = compute(*arguments, **named)
            try:
                self._look(logits)
            except Exception as error:
                failed(error)
            return logits

        model.compute_logits = compute_logits

    def take(self, rows: int) -> Best | None:
        """Of the latest call with so many rows, if there was one; all are forgotten."""
        for ids, probs in reversed(self._found):
            if len(ids) == rows:
                self._found.clear()
                return Best(ids.cpu().numpy(), probs.float().cpu().numpy())
        self._found.clear()
        return None

    def _look(self, logits: Any) -> None:
        if isinstance(logits, Tensor) and logits.ndim == 2 and len(logits) <= self._most_rows:
            self._found.append(vocab_search.likely(logits, self._top_k))
