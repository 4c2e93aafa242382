"""Plain decoding."""

from __future__ import annotations

from racer.step.view import StepView
from racer.strategies.base import Drafter


class NoDraft(Drafter):
    """Guesses nothing: every step is one token."""

    name = "none"
    drafts = False

    def draft(self, view: StepView, budget: int) -> None:
        return None
