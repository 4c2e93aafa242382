"""What travels to the host, and how."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from racer import DraftTree, Verdict
from racer.step.verdict import _one_copy, _packed


@given(st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=3), min_size=1, max_size=5), st.integers(0, 99))
def test_one_packed_copy_is_the_same_as_many(shapes: list[list[int]], seed: int) -> None:
    """The road that accelerators take, on tensors of the CPU."""
    generator = torch.Generator().manual_seed(seed)
    parts = {str(i): torch.randint(-(2**62), 2**62, shape, generator=generator) for i, shape in enumerate(shapes)}
    packed, plain = _packed(parts), _one_copy(parts)
    assert list(packed) == list(plain)
    assert all(np.array_equal(packed[name], plain[name]) for name in parts)


def test_probabilities_survive_their_trip_as_integers() -> None:
    tree = DraftTree.root(torch.tensor([1, 2]))
    ones = torch.ones(2, dtype=torch.long)
    probs = torch.tensor([[[0.7, 1e-30]], [[0.5, 0.0]]])
    verdict = Verdict(tree.tokens * 0, ones, ones, top_ids=torch.ones(2, 1, 2, dtype=torch.long), top_probs=probs)
    host = verdict.to_host(tree, ones * 0)
    assert host.top_probs is not None
    assert np.array_equal(host.top_probs, probs.numpy())
    packed = _packed(verdict.parts(tree, ones * 0))
    assert packed["top_probs"].dtype == np.float32
    assert np.array_equal(packed["top_probs"], probs.numpy())
    assert np.array_equal(packed["top_ids"], host.top_ids)
    assert verdict.to_host(tree, ones * 0, cues=False).top_ids.shape == (2, 1, 0)
