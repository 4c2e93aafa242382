"""How long drafts pay, by what an engine's steps take."""

from __future__ import annotations

import math

from racer.step.cost_curve import CostCurve

UNKNOWN = 0.1
"""The least score before costs are known: vLLM gave 38.0 tokens a CPU second with it, and 33.0 with chains of a fixed
length (SmolLM2-135M, float32, 7 drafts, 4 texts at once)."""
LEAST, MOST = 0.02, 0.9
LENIENCE = 3.0
"""Guesses are scored down to so small a part of what pays. Around what pays best little changes: vLLM's tokens a CPU
second were 32.4, 32.4 and 32.5 with bounds of 0.03, 0.05 and 0.1, and between 29.5 and 33.2 with what pays, about 0.2
(on a machine that did other things too); and what is scored is learned from."""
PAUSE = 5.0
"""A step takes at most so many times what is known of its size."""
MEMORY = 0.95
"""Weight of what is known when a step comes in."""


class Pace:
    """The least score of a guess that pays.

    A guess costs what one more token in a step costs, and saves, if it is right, what a token costs lately: it pays
    where its probability is more than the first by the second. See also :data:`LENIENCE`.
    """

    def __init__(self) -> None:
        self._curve = CostCurve()
        self._milliseconds = self._emitted = 0.0
        self._last = 1

    def heard(self, scored: int, emitted: int, milliseconds: float) -> None:
        """A step of so many scored tokens, all texts together, gave so many new ones in this time."""
        if not 0 < milliseconds < math.inf:  # of a clock that is too coarse, or was set back
            return
        if self._curve.sizes >= 2:  # a program that was stopped for a while is not slow
            milliseconds = min(milliseconds, PAUSE * self._curve(scored))
        self._curve.learn(scored, milliseconds)
        self._milliseconds = MEMORY * self._milliseconds + milliseconds
        self._emitted = MEMORY * self._emitted + emitted
        self._last = scored

    def least_score(self, texts: int) -> float:
        """For a step of so many texts."""
        if self._curve.sizes < 2 or not self._emitted:
            return UNKNOWN
        wide = max(self._last, 2 * texts)
        one_more = (self._curve(wide) - self._curve(texts)) / (wide - texts)
        score = one_more * self._emitted / self._milliseconds / LENIENCE
        return min(max(score, LEAST), MOST)
