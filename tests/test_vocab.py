"""Searches and noise over the vocabulary."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from racer import vocab


@given(
    st.integers(1, 9),
    st.integers(1, 700),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
    st.integers(0, 99),
)
def test_best_is_argmax_also_among_ties(rows: int, size: int, dtype: torch.dtype, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(-4, 4, (rows, size), generator=generator).to(dtype)  # ties everywhere
    expected = [row.index(max(row)) for row in scores.tolist()]
    assert vocab.best(scores).tolist() == expected
    assert scores.float().argmax(-1).tolist() == expected  # what generate does


@given(st.integers(1, 5), st.integers(1, 3000), st.integers(1, 12), st.integers(0, 99))
def test_top_is_topk(rows: int, size: int, k: int, seed: int) -> None:
    scores = torch.randn(rows, size, generator=torch.Generator().manual_seed(seed))
    values, ids = vocab.top(scores, k)
    assert torch.equal(values, scores.topk(min(k, size)).values)
    assert torch.equal(scores.gather(1, ids), values)


def test_top_with_fewer_finite_scores_than_k() -> None:
    scores = torch.full((2, 5000), -torch.inf)
    scores[:, 7] = 1.0
    values, ids = vocab.top(scores, 4)
    assert ids[:, 0].tolist() == [7, 7]
    assert ids.max() < 5000
    assert values[:, 1:].isinf().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_probabilities_are_the_softmax(dtype: torch.dtype, temperature: float) -> None:
    logits = (torch.randn(3, 50) * 4).to(dtype)
    values, ids = logits.topk(4)
    expected = (logits.double() / temperature).softmax(-1).gather(1, ids)
    found = vocab.probabilities(logits, values, temperature)
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), expected, rtol=1e-5)


@pytest.mark.parametrize("size", [4096, 5001])
def test_many_rows_are_searched_in_groups_as_if_at_once(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    scores = torch.randn(9, size).bfloat16()
    whole = vocab.best(scores), *vocab.top(scores, 8)
    monkeypatch.setattr(vocab, "GROUP", 2 * size)
    assert len(vocab._groups(scores)) == 5
    parts = vocab.best(scores), *vocab.top(scores, 8)
    assert all(torch.equal(one, other) for one, other in zip(whole, parts, strict=True))
    share = vocab.probabilities(scores, parts[1])
    assert torch.allclose(share, scores.float().softmax(-1).gather(1, parts[2]), rtol=1e-5)


def test_kept_room_serves_in_and_out_of_inference_mode_and_overlaps_with_no_result() -> None:
    scores = torch.randn(2, 5000).bfloat16()
    with torch.inference_mode():
        vocab._kept._rooms.clear()
        vocab.probabilities(scores, vocab.top(scores, 3)[0])
    before = vocab.best(scores), *vocab.top(scores, 3), vocab.probabilities(scores, vocab.top(scores, 3)[0])
    copies = [part.clone() for part in before]
    vocab.probabilities(-scores, vocab.top(-scores, 3)[0])
    assert all(torch.equal(one, other) for one, other in zip(before, copies, strict=True))


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**31), st.integers(1, 300))
def test_noise_depends_on_seed_position_and_token_only(seed: int, position: int, size: int) -> None:
    alone = vocab.gumbel(torch.tensor([seed]), torch.tensor([position]), size)
    batch = vocab.gumbel(torch.tensor([5, seed]), torch.tensor([9, position]), size + 3)
    assert torch.equal(alone[0], batch[1, :size])
    assert alone.isfinite().all()


@pytest.mark.parametrize("over", ["seeds", "positions", "tokens"])
def test_noise_is_gumbel_distributed(over: str) -> None:
    many, one = torch.arange(20_000), torch.zeros(20_000, dtype=torch.long)
    if over == "tokens":
        noise = vocab.gumbel(torch.tensor([3]), torch.tensor([4]), 20_000)[0]
    else:
        noise = vocab.gumbel(many if over == "seeds" else one, many if over == "positions" else one, 1)[:, 0]
    assert stats.kstest(noise.numpy(), "gumbel_r").pvalue > 1e-4
    assert abs(float(torch.corrcoef(torch.stack([noise[:-1], noise[1:]]))[0, 1])) < 0.03
