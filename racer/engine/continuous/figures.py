"""What an engine has done so far, and what it is doing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from racer.engine.continuous.live_batch import StepReport
    from racer.engine.continuous.member import Member


Observer = Callable[[int, int, int, float], None]
"""``observer(rows, nodes, new_tokens, seconds)`` of each step."""


@attrs.define
class Counts:
    """What an engine has done since it was made."""

    submitted: int = 0
    finished: int = 0
    cancelled: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    """Of requests that have begun."""
    cached_prompt_tokens: int = 0
    """Of these the ones that did not have to be scored."""
    new_tokens: int = 0
    steps: int = 0
    row_steps: int = 0
    """Steps, each counted once for every row that was decoded in it."""
    drafted: int = 0
    """Nodes, roots not counted."""
    accepted: int = 0
    """Of these the ones that became text."""
    step_seconds: float = 0.0


@attrs.frozen(kw_only=True)
class EngineFigures(Counts):
    """The same, and what is there now."""

    running: int = 0
    """Requests that are being decoded, those whose prompts are being scored included."""
    waiting: int = 0
    cache_tokens: int = 0
    """Slots of the cache that running requests have taken."""
    max_tokens: int = 0
    kept_tokens: int = 0
    """Slots that are kept of requests that have ended, for those that begin alike."""


@attrs.define
class Counters(Counts):
    """The counts of an engine, which its thread keeps up to date."""

    observers: list[Observer] = attrs.field(factory=list)

    def now(self) -> dict[str, Any]:
        """All counts."""
        return attrs.asdict(self, filter=attrs.filters.exclude("observers"))

    def began(self, member: Member) -> None:
        """A request whose prompt is scored."""
        self.prompt_tokens += len(member.request.prompt)
        self.cached_prompt_tokens += member.cached

    def stepped(self, report: StepReport) -> None:
        """A step of all rows, which is told to all observers."""
        self.steps += 1
        self.row_steps += report.rows
        self.new_tokens += report.new_tokens
        self.step_seconds += report.seconds
        for observer in self.observers:
            observer(report.rows, report.nodes, report.new_tokens, report.seconds)

    def ended(self, member: Member) -> None:
        """A request that is over, in whatever way."""
        self.drafted += member.stats.drafted.total()
        self.accepted += member.stats.accepted.total()
        if member.failure is not None:
            self.failed += 1
        elif member.cancelled and not member.request.done:
            self.cancelled += 1
        else:
            self.finished += 1
