"""What a cache of bounded size has room for."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from racer.errors import RequestTooLong


@attrs.frozen
class Room:
    """How many tokens and rows there may be. Rows stand side by side, each as long as the longest may become."""

    max_tokens: int
    """Of all rows. The cache's storage has room for trees beside, and grows by a quarter when it must grow."""
    max_rows: int

    def seats(self, rows: int) -> int:
        """Rows to make room for when so many are there: a power of two, so that storage is seldom made anew."""
        return int(min(1 << (rows - 1).bit_length(), self.max_rows))

    def fits(self, slots: Sequence[int]) -> bool:
        """Whether rows that may become so long can be there together."""
        if len(slots) > self.max_rows:
            return False
        return self.seats(len(slots)) * max(slots) <= self.max_tokens

    def check(self, slots: int) -> None:
        """See that a row that may become so long can be there alone.

        :raises RequestTooLong: it cannot.
        """
        if not self.fits([slots]):
            raise RequestTooLong(
                f"prompt and answer may take {slots} tokens, and the engine has room for {self.max_tokens}: "
                "shorten the prompt, ask for fewer new tokens, or make the engine with more max_tokens"
            )
