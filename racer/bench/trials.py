"""What is measured: one call of one method, and the trial that it belongs to."""

from __future__ import annotations

import attrs

Key = tuple[int, int, str]
"""Number of the batch of questions, turn, method."""


@attrs.frozen(kw_only=True)
class Measured:
    """What one call of one method gave and cost."""

    tokens: list[list[int]]
    """Per row: new tokens, the end token included, padding not."""
    accept_lengths: list[list[int]]
    """Per row: new tokens of each step after the prefill, bonus token included; empty where untold."""
    drafted: int = 0
    """Nodes that were guessed, in all rows."""
    kept: int = 0
    """Those whose tokens are in the answers."""
    seconds: float
    """Of the whole call, prefill included."""
    first_token_seconds: float | None = None
    nodes: list[int] = attrs.field(factory=list)
    """Columns that each step's forward pass scored."""
    step_milliseconds: list[float | None] = attrs.field(factory=list)
    """Wall-clock time of each step, from the end of the one before; None where that is unknown."""
    milliseconds: dict[str, float] | None = None
    """By phase, summed over the call; None where the method does not tell."""
    reliability: dict[str, list[list[float]]] | None = None
    """Tables of :mod:`racer.bench.reliability`, if the drafter gives scores."""
    seeds: list[int] | None = None
    """Per row: what its sampling noise was keyed by."""
    steps: int | None = None
    """Of the one row, where the method tells only how many; else the accept lengths say it."""


@attrs.frozen(kw_only=True)
class Trial:
    """One turn of one batch of questions, answered by one method."""

    number: int
    """Of the batch of questions in this run."""
    turn: int
    method: str
    group: str
    rows: list[int]
    """Which of the run's questions are in the batch and have this turn."""
    prompt_tokens: list[int]
    time: float
    """Seconds since the epoch when it ended."""
    measured: Measured | None = None
    texts: list[str] = attrs.field(factory=list)
    """Per row: the answer."""
    peak_bytes: int | None = None
    """How far memory grew during the call."""
    error: str | None = None
    """Why there is nothing measured."""
    complaint: str | None = None
    """What went wrong without stopping the method, such as a drafter that fails."""

    @property
    def key(self) -> Key:
        return self.number, self.turn, self.method
