"""What blocks are read as is what the package that reads such files says they are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from racer.loading.gguf_blocks import TYPES, grouped

gguf = pytest.importorskip("gguf")

HALVES = {
    "Q4_0": [0],
    "Q4_1": [0, 2],
    "Q5_0": [0],
    "Q5_1": [0, 2],
    "Q8_0": [0],
    "Q4_K": [0, 2],
    "Q5_K": [0, 2],
    "Q6_K": [208],
}
"""Where blocks have float16 numbers."""


@pytest.mark.parametrize("kind", TYPES)
@given(rows=st.integers(1, 5), blocks=st.integers(1, 3), seed=st.integers(0, 2**16))
def test_blocks_of_any_bytes(kind: str, rows: int, blocks: int, seed: int) -> None:
    random, size = np.random.default_rng(seed), TYPES[kind][2]
    data = random.integers(0, 256, (rows * blocks, size), dtype=np.uint8)
    for start in HALVES[kind]:
        data[:, start : start + 2] = (
            random.normal(size=(rows * blocks, 1)).astype(np.float16).view(np.uint8).reshape(-1, 2)
        )
    data = data.reshape(rows, blocks * size)
    whole = grouped(kind, data)
    assert whole is not None
    said = gguf.dequantize(data, gguf.GGMLQuantizationType[kind])
    np.testing.assert_allclose(whole.dequantised(), said, rtol=1e-6, atol=1e-6 * np.abs(said).max())


def test_other_types_are_not_kept() -> None:
    assert grouped("Q2_K", np.zeros((1, 84), np.uint8)) is None
