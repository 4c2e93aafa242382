"""An answer's text, as it becomes certain: cut before a stop string, with what is known of each piece."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from racer.engine.continuous.stream import Chunk, TokenScore
from racer.loading.detokenizer import Detokenizer


@attrs.frozen
class Unit:
    """Some text of one kind, and the tokens that it was made of."""

    text: str
    drafted: bool
    """Whether its last token was guessed by the drafter."""
    scores: tuple[TokenScore, ...] = ()


class Held:
    """Text that waits until it is certain."""

    def __init__(self) -> None:
        self._units: deque[Unit] = deque()
        self.text = ""

    def add(self, unit: Unit) -> None:
        self._units.append(unit)
        self.text += unit.text

    def take(self, length: int) -> list[Unit]:
        """The first characters; of a unit that is divided, the first part has the scores."""
        taken: list[Unit] = []
        self.text = self.text[length:]
        while self._units and (length or not self._units[0].text):
            unit = self._units.popleft()
            if len(unit.text) > length:
                self._units.appendleft(Unit(unit.text[length:], unit.drafted))
                unit = attrs.evolve(unit, text=unit.text[:length])
            taken.append(unit)
            length -= len(unit.text)
        return taken

    def drop(self) -> None:
        """Forget all that waits."""
        self._units.clear()
        self.text = ""


def first_of(text: str, marks: Sequence[str]) -> tuple[int, str] | None:
    """Where the first of ``marks`` is in ``text``, and which."""
    found = [(place, mark) for mark in marks if (place := text.find(mark)) >= 0]
    return min(found, default=None, key=lambda one: one[0])


def begun(text: str, marks: Sequence[str]) -> int:
    """How many of the last characters of ``text`` may be the beginning of one of ``marks``."""
    longest = min(len(text), max(map(len, marks), default=1) - 1)
    starts = range(len(text) - longest, len(text))
    return next((len(text) - start for start in starts if any(mark.startswith(text[start:]) for mark in marks)), 0)


class AnswerText:
    """Tokens in, certain text out.

    :param stops: text before the first of these is the whole answer.
    :param end_tokens: they end an answer and are no part of it.
    :param before: tokens of a text that is gone on from.
    :param shown: special tokens that are text nevertheless, and which.
    """

    def __init__(
        self,
        tokenizer: Any,
        stops: Sequence[str],
        end_tokens: frozenset[int],
        before: Sequence[int] = (),
        shown: Mapping[int, str] | None = None,
    ) -> None:
        self._text, self._stops, self._end_tokens = Detokenizer(tokenizer, before), stops, end_tokens
        self._shown = shown or {}
        self._held = Held()
        self._scores: list[TokenScore] = []
        """Of tokens whose text is not there yet."""
        self.stopped = False
        """Whether a stop string was found: nothing comes any more."""

    def add(self, chunk: Chunk) -> list[Unit]:
        """What becomes certain with a step's tokens: those behind a stop string are nobody's, whatever the steps."""
        units: list[Unit] = []
        for number, token in enumerate(chunk.tokens):
            if token in self._end_tokens:
                continue
            if chunk.scores is not None:
                self._scores.append(chunk.scores[number])
            literal = self._shown.get(token)
            if text := self._text.add(token) if literal is None else self._text.end() + literal:
                self._hold(text, number < chunk.accepted)
                units += self._certain()
        return units

    def end(self) -> list[Unit]:
        """What is left: the tokens have ended."""
        text = self._text.end()
        if (text or self._scores) and not self.stopped:
            self._hold(text, False)
        return self._certain() + self._held.take(len(self._held.text))

    def _hold(self, text: str, drafted: bool) -> None:
        self._held.add(Unit(text, drafted, tuple(self._scores)))
        self._scores = []

    def _certain(self) -> list[Unit]:
        if self.stopped:
            self._held.drop()
            return []
        if found := first_of(self._held.text, self._stops):
            self.stopped = True
            units = self._held.take(found[0])
            self._held.drop()
            return units
        return self._held.take(len(self._held.text) - begun(self._held.text, self._stops))
