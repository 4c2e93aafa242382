"""An online suffix automaton over token ids, in flat arrays (SAM-Decoding, arXiv 2411.10666, section on the automaton).

A state stands for the substrings that end at one and the same set of places; its longest string has ``_length``
tokens, its shortest is one token longer than the longest of its suffix link. A text of n tokens has at most 2n states
and 3n transitions, and appending a token costs amortised constant time.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable

NOTHING = -1
"""No state; no token (as a token of the text it ends a document, and nothing matches across it)."""

REFRESHED = 16
"""Suffix links whose latest place is renewed per token. Links beyond it keep an older place, which is right as well;
without a bound, a text like ``aaaa...`` would cost quadratic time."""


class SuffixAutomaton:
    """All substrings of a growing text, and for each one place where it ends.

    Most states have a single transition, which lies in two arrays; only states that branch own a dict.
    Memory: 24 bytes per state (at most 2 states a token), 8 per token, and a dict per branching state.
    """

    def __init__(self, tokens: Iterable[int] = ()) -> None:
        self.text = array("q")
        """The token ids read so far."""
        self._length = array("i", [0])
        self._link = array("i", [NOTHING])
        self._end = array("i", [NOTHING])
        """Index in ``text`` of the last token of the latest known occurrence."""
        self._token = array("q", [NOTHING])
        self._target = array("i", [NOTHING])
        self._branches: dict[int, dict[int, int]] = {}
        """Transitions beyond the first, of the states that have such."""
        self._last = 0
        self.extend(tokens)

    def __len__(self) -> int:
        return len(self.text)

    @property
    def states(self) -> int:
        return len(self._length)

    def extend(self, tokens: Iterable[int]) -> None:
        for token in tokens:
            self.append(token)

    def append(self, token: int) -> None:
        """Read one more token."""
        self._refresh()
        new = self._make(self._length[self._last] + 1, end=len(self.text))
        self.text.append(token)
        state = self._last
        while state != NOTHING and self.step(state, token) == NOTHING:
            self._point(state, token, new)
            state = self._link[state]
        self._link[new] = 0 if state == NOTHING else self._suffix(state, token)
        self._last = new

    def step(self, state: int, token: int) -> int:
        """The state after ``state`` and ``token``; ``NOTHING`` if the text has no such substring."""
        if self._token[state] == token and self._target[state] != NOTHING:
            return self._target[state]
        branches = self._branches.get(state)
        return NOTHING if branches is None else branches.get(token, NOTHING)

    def read(self, state: int, length: int, token: int) -> tuple[int, int]:
        """Follow another text, whose longest suffix here has ``length`` tokens, at ``state``: both after ``token``."""
        while state != NOTHING:
            target = self.step(state, token)
            if target != NOTHING:
                return target, length + 1
            state = self._link[state]
            length = self._length[state]
        return 0, 0

    def repeats(self, shortest: int, limit: int) -> list[tuple[int, int]]:
        """Earlier places of the text's own suffixes; as :meth:`places`.

        The suffix link of the state of the whole text is its longest suffix that also ends elsewhere, so the match of
        the text against itself needs no second walk.
        """
        state = self._link[self._last]
        return [] if state == NOTHING else self.places(state, self._length[state], shortest, limit)

    def places(self, state: int, length: int, shortest: int, limit: int) -> list[tuple[int, int]]:
        """Up to ``limit`` pairs ``(tokens matched, index of the last of them)``, longest first, each index once.

        The first is the match of ``length`` tokens at ``state``, the others are its suffixes of at least ``shortest``
        tokens that were seen elsewhere later.
        """
        found: dict[int, int] = {}
        while length >= shortest and state != NOTHING and len(found) < limit:
            found.setdefault(self._end[state], length)
            state = self._link[state]
            length = self._length[state]
        return [(matched, end) for end, matched in found.items()]

    def _refresh(self) -> None:
        """The suffixes of the text as it is now have been seen here: note it, so that the latest place wins.

        Done a token late, so that until then their places lie before the end of the text.
        """
        state, end = self._link[self._last], len(self.text) - 1
        for _ in range(REFRESHED):
            if state <= 0:
                return
            self._end[state] = end
            state = self._link[state]

    def _suffix(self, state: int, token: int) -> int:
        """The state whose longest string is that of ``state`` followed by ``token``; split off if it must be."""
        target, length = self.step(state, token), self._length[state] + 1
        if self._length[target] == length:
            return target
        clone = self._make(length, end=self._end[target])
        self._token[clone], self._target[clone] = self._token[target], self._target[target]
        if branches := self._branches.get(target):
            self._branches[clone] = dict(branches)
        self._link[clone] = self._link[target]
        self._link[target] = clone
        while state != NOTHING and self.step(state, token) == target:
            self._point(state, token, clone)
            state = self._link[state]
        return clone

    def _make(self, length: int, end: int) -> int:
        self._length.append(length)
        self._link.append(NOTHING)
        self._end.append(end)
        self._token.append(NOTHING)
        self._target.append(NOTHING)
        return len(self._length) - 1

    def _point(self, state: int, token: int, target: int) -> None:
        if self._target[state] == NOTHING or self._token[state] == token:
            self._token[state], self._target[state] = token, target
        else:
            self._branches.setdefault(state, {})[token] = target
