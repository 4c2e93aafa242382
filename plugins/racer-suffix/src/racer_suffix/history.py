"""What finished requests leave behind, in bounded memory."""

from __future__ import annotations

from collections.abc import Sequence

from racer.errors import ConfigError
from racer_suffix.automaton import NOTHING, SuffixAutomaton

RECALL = 64
"""Tokens of an open request that a cursor reads again when the history has changed under it."""


class History:
    """The latest tokens of finished requests, in two automata that take turns.

    A suffix automaton cannot forget its oldest token. So the young one is filled to half of ``max_tokens``, then it
    becomes the old one and the former old one is dropped: at least the latest half is always there, never more than
    ``max_tokens``, and nothing is ever rebuilt.

    :raises ConfigError: ``max_tokens`` is neither 0 (remember nothing) nor at least 4.
    """

    def __init__(self, max_tokens: int) -> None:
        if max_tokens != 0 and max_tokens < 4:
            raise ConfigError(f"max_history must be 0 (remember nothing) or at least 4 tokens, not {max_tokens}")
        self.half = max_tokens // 2
        self.young = SuffixAutomaton()
        self.old = SuffixAutomaton()
        self.version = 0
        """Changes whenever the automata do."""

    def __len__(self) -> int:
        return len(self.young) + len(self.old)

    def add(self, tokens: Sequence[int]) -> None:
        """Read a finished text; of one longer than half the history, its end."""
        if not self.half or not tokens:
            return
        kept = tokens[-(self.half - 1) :]
        if len(self.young) + len(kept) + 1 > self.half:
            self.old, self.young = self.young, SuffixAutomaton()
        self.young.extend(kept)
        self.young.append(NOTHING)
        self.version += 1


class Cursor:
    """Where an open request stands in the history: its longest suffixes that occur in either automaton."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._version = NOTHING
        self._states: list[tuple[SuffixAutomaton, int, int]] = []

    def read(self, text: Sequence[int], start: int) -> None:
        """Read ``text[start:]``, the tokens that are new since the last call. Where the history has changed since
        then, the last ``RECALL`` tokens are read again: states may have been split or dropped."""
        if self._version != self._history.version:
            self._version = self._history.version
            self._states = [(automaton, 0, 0) for automaton in (self._history.young, self._history.old) if automaton]
            start = max(0, len(text) - RECALL)
        for place, (automaton, state, length) in enumerate(self._states):
            for token in text[start:]:
                state, length = automaton.read(state, length, token)
            self._states[place] = automaton, state, length

    def places(self, shortest: int, limit: int) -> list[tuple[SuffixAutomaton, int, int]]:
        """``(automaton, tokens matched, index of the last of them)``, up to ``limit`` of each automaton."""
        return [
            (automaton, matched, end)
            for automaton, state, length in self._states
            for matched, end in automaton.places(state, length, shortest, limit)
        ]
