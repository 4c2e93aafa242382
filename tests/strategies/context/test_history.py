"""The ring of tokens against a plain list, searched by brute force."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from racer.strategies.context import history as past
from racer.strategies.context.hashing import NO_TOKEN, context_of
from racer.strategies.context.history import GRAM, History

CAPACITY = 64
TOKENS = st.lists(st.integers(-1, 3), max_size=60)  # few tokens, so that much matches; -1 separates texts


def found_ends(history: History, context: np.ndarray, gram: int) -> list[int]:
    ends, end = [], past.latest_end(history, context, gram)
    while end >= 0:
        if past.match_length(history, end, context) >= gram and past.next_token(history, end) is not None:
            ends.append(int(end))
        end = past.earlier_end(history, end)
    return ends


@given(
    pieces=st.lists(TOKENS, max_size=6),
    query=st.lists(st.integers(0, 3), min_size=1, max_size=8),
    gram=st.sampled_from([1, GRAM]),
)
def test_matches_are_those_of_brute_force(pieces: list[list[int]], query: list[int], gram: int) -> None:
    history, tokens = History.of(CAPACITY), [token for piece in pieces for token in piece]
    for piece in pieces:
        past.append(history, np.array(piece, np.int32), gram)
    context = context_of(query, len(query))
    found = found_ends(history, context, gram)
    wanted, oldest = query[-gram:], max(0, len(tokens) - CAPACITY)
    expected = [
        end
        for end in range(len(tokens) - 2, oldest + gram - 2, -1)
        if len(query) >= gram and tokens[end - gram + 1 : end + 1] == wanted
    ]
    # a link that the ring has overwritten may hide old occurrences; nothing is invented, and the latest is never hidden
    assert [end for end in expected if end in found] == found
    assert found[:1] == expected[:1]
    assert len(tokens) > CAPACITY or found == expected
    for end in found:
        length, text = past.match_length(history, end, context), tokens[oldest : end + 1]
        assert text[-length:] == query[-length:]
        assert length in (len(query), len(text)) or text[-length - 1] != query[-length - 1] or query[-length - 1] < 0
        assert past.next_token(history, end) == tokens[end + 1]


def test_a_long_history_takes_no_more_memory_and_no_old_place_is_read() -> None:
    history = History.of(CAPACITY)
    before = [part.nbytes for part in history]
    past.append(history, np.arange(10_000, dtype=np.int32) % 7, GRAM)
    assert [part.nbytes for part in history] == before
    ends = found_ends(history, context_of([1, 2, 3], 3), GRAM)
    assert ends
    assert min(ends) >= 10_000 - CAPACITY
    assert past.next_token(history, 9_999) == NO_TOKEN
