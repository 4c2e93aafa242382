"""What the model thought at each scored token: seen where vLLM computes its logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from racer.kernels import vocab_search

AT_ONCE = 128
"""Rows of logits that are looked at in one go: vLLM has reserved no memory for copies of all."""


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
        self._found: tuple[Tensor, Tensor] | None = None
        self.on = True
        """Whether anything is looked at."""

    def watch(self, model: Any, failed: Callable[[Exception], None]) -> None:
        """Wrap ``compute_logits`` of this one model; what it returns is left alone.

        :param failed: told of an error of ours, which goes no further; nothing is looked at any more then.
        """
        compute = model.compute_logits

        def compute_logits(*arguments: Any, **named: Any) -> Any:
            logits = compute(*arguments, **named)
            try:
                self._look(logits)
            except Exception as error:
                self.stop()
                failed(error)
            return logits

        model.compute_logits = compute_logits

    def take(self, rows: int) -> Best | None:
        """Of the first call since this was last asked, if it had so many rows. Later ones in a step are of prompts' log
        probabilities."""
        found, self._found = self._found, None
        if found is None or len(found[0]) != rows:
            return None
        return Best(found[0].cpu().numpy(), found[1].float().cpu().numpy())

    def stop(self) -> None:
        """Look no more."""
        self.on, self._found = False, None

    def _look(self, logits: Any) -> None:
        if not self.on or self._found is not None or not isinstance(logits, Tensor):
            return
        if logits.ndim == 2 and 0 < len(logits) <= self._most_rows:
            ids, probs = zip(
                *(vocab_search.likely(part, self._top_k) for part in torch.split(logits, AT_ONCE)), strict=True
            )
            self._found = torch.cat(ids), torch.cat(probs)
