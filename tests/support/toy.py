"""The toy model that properties are tried on, and prompts for it."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from racer.testing import decode_plainly, toy_model

VOCAB = 6
MODEL = toy_model(VOCAB)
prompts = st.lists(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=9), min_size=1, max_size=4)


def plain_or_none(prompts: list[list[int]], new: int, **how: Any) -> list[list[int]] | None:
    """What plain decoding gives; None where processors leave nothing to draw from, and it raises."""
    try:
        return decode_plainly(MODEL, prompts, new, **how)
    except RuntimeError as error:
        if "probability tensor" not in str(error):
            raise
        return None
