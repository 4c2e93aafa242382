"""Where each node's text occurred before: cursors into the row's own text and into earlier ones."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from racer.kernels.jit import Number, compiled
from racer.strategies.context.hashing import Context
from racer.strategies.context.history import GRAM, History, earlier_end, latest_end, match_length, next_token

MAX_MATCHES = 8
"""Cursors of a node: the longest matches."""
MAX_TRIES = 16
"""Occurrences looked at for a node in each history, the latest first; bounds the time, whatever the histories hold."""
MAX_SINGLE_TRIES = 8
"""The same of its last token alone, which is of use in the row's own text only."""


class Matches(NamedTuple):
    """Of each node: the positions at which its last tokens occurred."""

    end: NDArray[np.int64]
    """``[N, MAX_MATCHES]`` positions of the node's token."""
    length: NDArray[np.int32]
    """``[N, MAX_MATCHES]`` tokens that match, this one included."""
    own: NDArray[np.bool_]
    """``[N, MAX_MATCHES]`` in the row's own text."""
    found: NDArray[np.int32]
    """``[N]`` how many there are."""

    @classmethod
    def of(cls, size: int) -> Matches:
        """None yet, of ``size`` nodes."""
        return cls(
            np.empty((size, MAX_MATCHES), np.int64),
            np.empty((size, MAX_MATCHES), np.int32),
            np.empty((size, MAX_MATCHES), np.bool_),
            np.zeros(size, np.int32),
        )


@compiled
def follow(matches: Matches, parent: Number, node: int, token: Number, own: History, shared: History) -> None:
    """Move the parent's cursors on to the ``node`` that holds ``token``, where their text goes on with it."""
    for i in range(matches.found[parent]):
        history = own if matches.own[parent, i] else shared
        end = matches.end[parent, i]
        if next_token(history, end) == token:
            _add(matches, node, end + 1, matches.length[parent, i] + 1, matches.own[parent, i])


@compiled
def look_up(matches: Matches, node: int, context: Context, text: History, singles: History, shared: History) -> None:
    """Find the latest occurrences of the last tokens of ``context``, beside those that were followed there.

    :param text, singles: the row's own text, by pairs and by single tokens.
    """
    _seek(matches, node, context, text, True, GRAM, MAX_TRIES)
    _seek(matches, node, context, shared, False, GRAM, MAX_TRIES)
    _seek(matches, node, context, singles, True, 1, MAX_SINGLE_TRIES)


@compiled
def _seek(matches: Matches, node: int, context: Context, history: History, own: bool, gram: int, tries: int) -> None:
    end = latest_end(history, context, gram)
    for _ in range(tries):
        if end < 0:
            break
        length = match_length(history, end, context)
        if length >= gram and end + 1 < history.length[0]:
            _add(matches, node, end, length, own)
        end = earlier_end(history, end)


@compiled
def _add(matches: Matches, node: int, end: int, length: int, own: bool) -> None:
    """Keep a match, in place of the shortest one if there are too many."""
    count = matches.found[node]
    shortest = 0
    for i in range(count):
        if matches.end[node, i] == end and matches.own[node, i] == own:
            return
        if matches.length[node, i] < matches.length[node, shortest]:
            shortest = i
    if count < MAX_MATCHES:
        shortest = count
        matches.found[node] += 1
    elif length <= matches.length[node, shortest]:
        return
    matches.end[node, shortest], matches.length[node, shortest], matches.own[node, shortest] = end, length, own
