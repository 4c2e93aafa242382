"""Shapes are few, and waste little."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from racer.engine.static.shapes import NODES, SLOTS, nodes_bucket, slots_bucket


@given(st.integers(1, 4096))
def test_trees_are_rounded_up_to_few_widths(nodes: int) -> None:
    bucket = nodes_bucket(nodes)
    assert nodes <= bucket == nodes_bucket(bucket)
    assert bucket in NODES or bucket % 32 == 0
    assert bucket - nodes < 32


@given(st.integers(1, 10**6))
def test_attention_lengths_are_few_and_waste_little(slots: int) -> None:
    bucket = slots_bucket(slots)
    assert slots <= bucket == slots_bucket(bucket)
    assert bucket % SLOTS == 0
    assert bucket - slots < max(SLOTS, slots / 4)


def test_the_number_of_attention_lengths_grows_with_the_logarithm() -> None:
    sizes = {slots_bucket(slots) for slots in range(1, 2**17)}
    assert len(sizes) <= 8 + 4 * math.log2(2**17 / 2048)
