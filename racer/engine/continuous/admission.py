"""What a cache of bounded size has room for."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from racer.core.kv_cache import GROWTH
from racer.engine.opening import FIRST_SCRATCH
from racer.errors import RequestTooLong

SLACK = 1.25
"""A cache grows by a quarter at least, so that it is seldom copied."""


@attrs.frozen
class Room:
    """How many slots and rows there may be. Rows stand side by side, each as long as the longest may become."""

    max_tokens: int
    """Slots of all rows."""
    max_rows: int

    def seats(self, rows: int) -> int:
        """Rows to make room for when so many are there: a power of two, so that storage is seldom made anew."""
        return int(min(1 << (rows - 1).bit_length(), self.max_rows))

    def fits(self, slots: Sequence[int]) -> bool:
        """Whether rows that may become so long can be there together."""
        if len(slots) > self.max_rows:
            return False
        return self.seats(len(slots)) * _capacity(max(slots)) <= self.max_tokens

    def check(self, slots: int) -> None:
        """See that a row that may become so long can be there alone.

        :raises RequestTooLong: it cannot.
        """
        if not self.fits([slots]):
            most = int(self.max_tokens // GROWTH * GROWTH / SLACK) - FIRST_SCRATCH
            raise RequestTooLong(
                f"the prompt and its new tokens may take {slots} tokens, and the engine has room for {max(most, 0)} in "
                "one request: shorten the prompt, ask for fewer new tokens, or make the engine with more max_tokens"
            )


def _capacity(slots: int) -> int:
    return -(-int((slots + FIRST_SCRATCH) * SLACK) // GROWTH) * GROWTH
