"""Which text is in which row: vLLM says what each row holds, and not whose it is."""

from __future__ import annotations

from collections.abc import Iterator

import attrs
import numpy as np
from numpy.typing import NDArray

from racer.drafting import Draft

PATIENCE = 8
"""Steps that a text may be away before it has ended. With pipeline parallelism batches take turns; a text that was
preempted for longer is opened anew with all its tokens, and goes on."""


@attrs.define(eq=False)
class Text:
    """A text as far as it is known."""

    key: int
    seen: int
    """The step in which it was last there."""
    row: int
    """Where it was then."""
    length: int = 0
    draft: Draft | None = None
    """What was drafted for it when it was last there."""
    _tokens: NDArray[np.int32] = attrs.field(factory=lambda: np.empty(256, np.int32))

    def is_now(self, tokens: NDArray[np.int32]) -> bool:
        """Whether these are all its tokens."""
        return self.length == len(tokens) and np.array_equal(self._tokens[: self.length], tokens)

    def begins(self, tokens: NDArray[np.int32]) -> bool:
        """Whether these begin with all its tokens."""
        return self.length < len(tokens) and np.array_equal(self._tokens[: self.length], tokens[: self.length])

    def add(self, tokens: NDArray[np.int32]) -> None:
        """``tokens [M]`` come after it."""
        new = self.length + len(tokens)
        if new > len(self._tokens):
            self._tokens = np.concatenate([self._tokens[: self.length], np.empty(2 * new - self.length, np.int32)])
        self._tokens[self.length : new] = tokens
        self.length = new


class Texts:
    """The texts that an engine decodes, told apart by their tokens.

    A row's text is the one whose tokens the row begins with, all of them and nothing more: that of the same row
    if it is, as rows move seldom, else any; else the longest one that the row goes on from.
    Two texts with the same tokens cannot be told apart, and need not be.
    """

    def __init__(self) -> None:
        self.step = 0
        self._rows: dict[int, Text] = {}
        """By their last row."""
        self._by_length: dict[int, list[Text]] = {}
        self._keys = 0

    def __iter__(self) -> Iterator[Text]:
        return (text for texts in self._by_length.values() for text in texts)

    def find(self, row: int, before: NDArray[np.int32]) -> Text | None:
        """The text that is in a row now, of which no other row of this step is.

        :param before: ``[L]`` what the row held before this step's tokens.
        """
        here = self._rows.get(row)
        for text in ([here] if here else []) + self._by_length.get(len(before), []):
            if text.seen < self.step and text.is_now(before):
                return text
        # near the end of the longest text vLLM takes steps of which it does not tell
        known = [text for text in self if text.seen < self.step and text.begins(before)]
        return max(known, key=lambda text: text.length, default=None)

    def catch_up(self, text: Text, before: NDArray[np.int32]) -> None:
        """A text has gone on without us, to ``before [L]``."""
        self._drop(text)
        text.add(before[text.length :])
        text.draft = None
        self._keep(text)

    def begin(self, row: int, before: NDArray[np.int32]) -> Text:
        """A text that is new."""
        self._keys += 1
        text = Text(self._keys, self.step - 1, row)
        text.add(before)
        self._keep(text)
        return text

    def go_on(self, text: Text, row: int, tokens: NDArray[np.int32]) -> None:
        """``tokens [M]`` have come after a text, which is in this row."""
        self._drop(text)
        text.add(tokens)
        text.row, text.seen = row, self.step
        self._rows[row] = text
        self._keep(text)

    def ended(self) -> list[Text]:
        """Those that have been away for too long; they are forgotten."""
        gone = [text for text in self if self.step - text.seen > PATIENCE]
        for text in gone:
            self._drop(text)
        return gone

    def _keep(self, text: Text) -> None:
        self._by_length.setdefault(text.length, []).append(text)

    def _drop(self, text: Text) -> None:
        texts = self._by_length[text.length]
        texts.remove(text)
        if not texts:
            del self._by_length[text.length]
        if self._rows.get(text.row) is text:
            del self._rows[text.row]
