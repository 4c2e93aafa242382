"""Noise that depends on seed, position and token alone."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from racer.kernels import gumbel


def reference_noise(seed: int, position: int, token: int) -> float:
    """The generator in whole numbers, so that it cannot change unseen."""

    def mix(x: int) -> int:
        x = ((x ^ (x >> 16)) * 0x7FEB352D) % 2**32
        x = ((x ^ (x >> 15)) * 0x846CA68B) % 2**32
        return x ^ (x >> 16)

    first = mix(mix(mix(seed % 2**32 ^ 0x9E3779B9) ^ (seed >> 32) % 2**32) ^ position % 2**32)
    bits = mix(mix((token + first) % 2**32) ^ mix(first ^ 0x85EBCA6B))
    return -math.log(-math.log((bits + 0.5) / 2**32))


@given(
    st.integers(-(2**63), 2**63 - 1),
    st.integers(0, 2**31),
    st.lists(st.integers(0, 999), max_size=9),
)
def test_noise_of_chosen_tokens_is_that_of_all(seed: int, position: int, tokens: list[int]) -> None:
    every = gumbel.gumbel(torch.tensor([seed]), torch.tensor([position]), 1000)[0]
    chosen = torch.tensor(tokens, dtype=torch.long)
    found = gumbel.gumbel_at(seed, position, chosen)
    assert torch.equal(found, every[chosen])
    expected = [reference_noise(seed, position, token) for token in tokens]
    assert found.tolist() == pytest.approx(expected, rel=1e-6, abs=1e-6)


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**31), st.integers(1, 300))
def test_noise_depends_on_seed_position_and_token_only(seed: int, position: int, size: int) -> None:
    alone = gumbel.gumbel(torch.tensor([seed]), torch.tensor([position]), size)
    batch = gumbel.gumbel(torch.tensor([5, seed]), torch.tensor([9, position]), size + 3)
    assert torch.equal(alone[0], batch[1, :size])
    assert alone.isfinite().all()


@pytest.mark.parametrize("over", ["seeds", "positions", "tokens"])
def test_noise_is_gumbel_distributed(over: str) -> None:
    many, one = torch.arange(20_000), torch.zeros(20_000, dtype=torch.long)
    if over == "tokens":
        drawn = gumbel.gumbel(torch.tensor([3]), torch.tensor([4]), 20_000)[0]
    else:
        drawn = gumbel.gumbel(many if over == "seeds" else one, many if over == "positions" else one, 1)[:, 0]
    assert stats.kstest(drawn.numpy(), "gumbel_r").pvalue > 1e-4
    assert abs(float(torch.corrcoef(torch.stack([drawn[:-1], drawn[1:]]))[0, 1])) < 0.03
