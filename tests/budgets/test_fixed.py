"""A fixed budget."""

from __future__ import annotations

from typing import Any

from racer import DecodeConfig, Decoder
from racer.budgets import Fixed
from racer.testing import decode, decode_plainly, toy_model


def test_fixed_is_fixed_and_the_last_token_needs_no_tree() -> None:
    stub: Any = None
    assert Fixed(7).nodes(stub) == 7
    model = toy_model()
    got, stats = decode(Decoder(model, DecodeConfig(drafter="logits", budget=9)), [[1, 2, 3]], 30)
    assert got == decode_plainly(model, [[1, 2, 3]], 30)
    assert max(stats.nodes) == 9
