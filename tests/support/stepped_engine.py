"""An engine whose turns are taken by a test, so that what happens when is the test's choice."""

from __future__ import annotations

from typing import Any

import torch

import racer
from racer.engine.continuous.scheduler import Scheduler


class SteppedEngine(racer.Engine):
    """Has no thread: :meth:`turn` is one turn of it."""

    _scheduler: Scheduler

    def _start(self) -> None:
        pass

    @torch.no_grad()
    def turn(self) -> None:
        """One piece of a prompt, and one step of all rows."""
        if self._scheduler.busy:
            self._scheduler.turn()

    def run(self, turns: int = 2000) -> None:
        """Until nothing is left to do."""
        for _ in range(turns):
            if not self._scheduler.busy:
                return
            self.turn()
        raise AssertionError(f"still busy after {turns} turns: {self.figures()}")

    @property
    def strategies(self) -> Any:
        """Who drafts and decides."""
        assert self._decoder is not None
        return self._decoder.strategies


def solo(model: Any, prompt: list[int], seed: int = 0, **settings: Any) -> list[int]:
    """The new tokens of a call of its own, decoded plainly by RACER."""
    ids = torch.tensor([prompt])
    config = racer.DecodeConfig(drafter="none", budget=1, seed=seed)
    text = racer.generate(model, ids, attention_mask=torch.ones_like(ids), config=config, **settings)
    return [int(token) for token in text[0, len(prompt) :]]
