"""The toy model that properties are tried on, and prompts for it."""

from __future__ import annotations

from hypothesis import strategies as st

from racer.testing import toy_model

VOCAB = 6
MODEL = toy_model(VOCAB)
prompts = st.lists(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=9), min_size=1, max_size=4)
