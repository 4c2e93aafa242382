"""The drafter: chains copied from behind the longest earlier matches."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

import attrs

from racer.errors import ConfigError
from racer.step.request import Request
from racer.step.tree_builder import TreeBuilder
from racer.step.view import Needs
from racer.strategies.base import Drafter
from racer_suffix.automaton import NOTHING, SuffixAutomaton
from racer_suffix.history import Cursor, History


@attrs.define(eq=False)
class _Reader:
    """What is kept for one open request."""

    cursor: Cursor
    automaton: SuffixAutomaton = attrs.field(factory=SuffixAutomaton)
    """Of the request's own tokens, as far as they have been read."""


class Suffix(Drafter):
    """Finds the longest suffix of the text that was seen before, in this request or in earlier ones, and drafts what
    followed it. After SAM-Decoding (Hu et al., arXiv 2411.10666), with the latest place of a match instead of its
    first, several places in one tree, and a history of earlier requests instead of a corpus.

    A match of m tokens is guessed to hold for d more with probability ``m / (m + d)``. So the chain behind it has
    ``reach * m`` tokens at most, and the nodes of several chains go into the tree in this order, likeliest first.

    Memory: an open request's automaton takes 24 bytes a state (at most 2 states a token), 8 a token and a dict per
    branching state. The history takes the same for at most ``max_history`` tokens, however many requests are served.

    :param min_match: shortest match that is drafted from, in tokens.
    :param max_draft: longest chain, in tokens.
    :param reach: how many tokens to draft per token matched.
    :param chains: places to draft from, per automaton (the request's own and the two halves of the history).
    :param max_history: tokens of finished requests to remember; 0 remembers none.
    :raises ConfigError: ``min_match``, ``max_draft`` or ``chains`` below 1, ``reach`` not positive, or ``max_history``
        from 1 to 3 or negative.
    """

    name = "suffix"
    needs = Needs(host=False)

    def __init__(
        self, *, min_match: int = 2, max_draft: int = 40, reach: float = 4.0, chains: int = 2, max_history: int = 65_536
    ) -> None:
        for setting, value in (("min_match", min_match), ("max_draft", max_draft), ("chains", chains)):
            if value < 1:
                raise ConfigError(f"{setting} must be at least 1, not {value}")
        if not reach > 0:
            raise ConfigError(f"reach must be positive, not {reach}")
        self.min_match = min_match
        self.max_draft = max_draft
        self.reach = reach
        self.chains = chains
        self.history = History(max_history)
        self._readers: dict[int, _Reader] = {}

    def opened(self, request: Request) -> None:
        self._catch_up(request)

    def grow(self, request: Request, tree: TreeBuilder) -> None:
        reader = self._catch_up(request)
        own, (least, most) = reader.automaton, (self.min_match, self.chains)
        chains = [self._chain(own, matched, end, wrap=True) for matched, end in own.repeats(least, most)]
        chains += [self._chain(*place, wrap=False) for place in reader.cursor.places(least, most)]
        fill(tree, chains)

    def closed(self, request: Request) -> None:
        if self._readers.pop(request.id, None):
            self.history.add(request.tokens)

    def _catch_up(self, request: Request) -> _Reader:
        """Read what was emitted since the last call."""
        reader = self._readers.get(request.id)
        if reader is None:
            reader = self._readers[request.id] = _Reader(Cursor(self.history))
        start = len(reader.automaton)
        reader.automaton.extend(request.tokens[start:])
        reader.cursor.read(request.tokens, start)
        return reader

    def _chain(self, automaton: SuffixAutomaton, matched: int, end: int, wrap: bool) -> Iterator[tuple[float, int]]:
        """``(score, token)`` of what followed index ``end``. At the end of the text a chain that may ``wrap`` goes on
        with its own tokens: a text that has begun to repeat itself is guessed to keep repeating."""
        text = automaton.text
        period = len(text) - 1 - end
        longest = min(self.max_draft, int(self.reach * matched), self.max_draft if wrap else period)
        for depth in range(longest):
            token = text[end + 1 + depth % period]
            if token == NOTHING:
                return
            yield matched / (matched + depth + 1), token


def fill(tree: TreeBuilder, chains: list[Iterator[tuple[float, int]]]) -> None:
    """Put chains of ``(score, token)`` with falling scores into one tree, the best node first, until it is full."""
    heap: list[tuple[float, int, int, int]] = []

    def push(rank: int, node: int) -> None:
        for score, token in chains[rank]:
            heapq.heappush(heap, (-score, rank, node, token))
            return

    for rank in range(len(chains)):
        push(rank, 0)
    while heap:
        score, rank, parent, token = heapq.heappop(heap)
        node = tree.add(parent, token, -score)
        if node is None:
            return
        push(rank, node)
