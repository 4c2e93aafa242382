"""The toy model is a fair opponent."""

from __future__ import annotations

import pytest
import torch

from racer.testing.toy import ToyLM
from support.toy import MODEL


@pytest.mark.parametrize("budget", [1, 2, 64])
def test_the_toy_model_reads_its_whole_prefix(budget: int) -> None:
    """The proof would be void if the model ignored part of it."""
    assert isinstance(MODEL, ToyLM)
    base = torch.tensor([[1, 2, 3, 4]])
    for place in range(4):
        other = base.clone()
        other[0, place] = 5
        assert not torch.equal(MODEL(base).logits[0, -1], MODEL(other).logits[0, -1])
        assert torch.equal(MODEL(base).logits[0, :place], MODEL(other).logits[0, :place])
