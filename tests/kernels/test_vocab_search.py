"""Searches over the vocabulary."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from racer.kernels import vocab_search


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
    assert vocab_search.best(scores).tolist() == expected
    assert scores.float().argmax(-1).tolist() == expected  # what generate does


@given(st.integers(1, 5), st.integers(1, 3000), st.integers(1, 12), st.integers(0, 99))
def test_top_is_topk(rows: int, size: int, k: int, seed: int) -> None:
    scores = torch.randn(rows, size, generator=torch.Generator().manual_seed(seed))
    values, ids = vocab_search.top(scores, k)
    assert torch.equal(values, scores.topk(min(k, size)).values)
    assert torch.equal(scores.gather(1, ids), values)


def test_top_with_fewer_finite_scores_than_k() -> None:
    scores = torch.full((2, 5000), -torch.inf)
    scores[:, 7] = 1.0
    values, ids = vocab_search.top(scores, 4)
    assert ids[:, 0].tolist() == [7, 7]
    assert ids.max() < 5000
    assert values[:, 1:].isinf().all()


def test_probabilities_are_the_softmax() -> None:
    logits = torch.randn(3, 50)
    ids, probs = vocab_search.likely(logits, 4)
    assert torch.equal(ids, logits.topk(4).indices)
    assert torch.allclose(probs, logits.softmax(-1).gather(1, ids))


FLOATS = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
ODD = [0.0, -0.0, math.inf, -math.inf, math.nan, -math.nan, 1e-40, -1e-40]


@given(
    rows=st.integers(1, 9),
    size=st.sampled_from([1, 63, 64, 65, 700, 1024, 3000]),
    dtype=st.sampled_from(FLOATS),
    temperature=st.sampled_from([1.0, 0.7, 2.5]),
    strided=st.booleans(),
    seed=st.integers(0, 99),
)
def test_searches_of_all_types_are_those_of_torch(
    rows: int, size: int, dtype: torch.dtype, temperature: float, strided: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(rows, size, generator=generator).mul(3).to(dtype)
    if strided:
        scores = torch.stack([scores, scores], dim=2)[:, :, 0]
    before = scores.clone()
    assert torch.equal(vocab_search.best(scores), scores.argmax(-1))
    values, ids = vocab_search.top(scores, 2)
    assert torch.equal(values, scores.topk(min(2, size)).values)
    assert torch.equal(scores.gather(1, ids), values)
    k = min(15, max(1, size // 64))
    likely, probs = vocab_search.likely(scores, k, temperature)
    assert torch.equal(likely, vocab_search.top(scores.float(), k)[1])  # float64 is searched as float32
    softmax = (scores.float() / temperature).softmax(-1).gather(1, likely)
    assert probs.dtype == torch.float32
    torch.testing.assert_close(probs, softmax)
    assert torch.equal(scores, before)


@given(st.sampled_from(FLOATS), st.lists(st.sampled_from([1.5, -2.0, *ODD]), min_size=1, max_size=200))
def test_no_number_is_out_of_order(dtype: torch.dtype, numbers: list[float]) -> None:
    scores = torch.tensor([numbers, numbers[::-1]], dtype=torch.float64).to(dtype)
    expected = [next((i for i, x in enumerate(row) if x != x), row.index(max(row))) for row in scores.tolist()]
    assert vocab_search.best(scores).tolist() == expected == scores.argmax(-1).tolist()
    k = max(1, len(numbers) // 64)
    values, ids = vocab_search.top(scores, k)
    torch.testing.assert_close(values, scores.topk(k).values, equal_nan=True, rtol=0, atol=0)
    assert all(len(set(row)) == k for row in ids.tolist())


@given(st.sampled_from(FLOATS), st.integers(70, 900), st.integers(1, 12))
def test_equals_come_in_the_order_of_their_places(dtype: torch.dtype, size: int, k: int) -> None:
    k = min(k, size // 64)
    scores = (torch.arange(2 * size).view(2, size) % 3).to(dtype)
    _, ids = vocab_search.top(scores, k)
    expected = [[place for place, score in enumerate(row) if score == 2][:k] for row in scores.tolist()]
    assert ids.tolist() == expected


@given(
    st.sampled_from(FLOATS),
    st.integers(1, 3),
    st.integers(1, 900),
    st.integers(0, 15),
    st.lists(st.tuples(st.integers(0, 2699), st.sampled_from(ODD)), max_size=20),
    st.integers(0, 99),
)
def test_the_first_of_the_best_is_the_best_where_it_is_said_to_be(
    dtype: torch.dtype, rows: int, size: int, k: int, odd: list[tuple[int, float]], seed: int
) -> None:
    scores = torch.randint(-2, 3, (rows, size), generator=torch.Generator().manual_seed(seed)).to(dtype)
    for place, number in odd:
        scores.view(-1)[place % scores.numel()] = number
    assert vocab_search.first_is_best(scores, k) == (0 < 64 * k <= size and dtype != torch.float64)
    if vocab_search.first_is_best(scores, k):
        best = scores.float().argmax(-1)
        assert torch.equal(vocab_search.best(scores), best)
        assert torch.equal(vocab_search.top(scores, k)[1][:, 0], best)
        assert torch.equal(vocab_search.likely(scores, k)[0][:, 0], best)


def test_what_is_impossible_has_no_probability() -> None:
    logits = torch.full((1, 700), -torch.inf)
    logits[0, [3, 9]], logits[0, 600] = 0.0, -95.0
    ids, probs = vocab_search.likely(logits, 5)
    assert ids[0, :3].tolist() == [3, 9, 600]
    assert probs[0].tolist() == [0.5, 0.5, 0, 0, 0]
    assert vocab_search.likely(logits, 0)[1].shape == vocab_search.top(logits, 0)[1].shape == (1, 0)


def test_probabilities_of_what_is_no_number() -> None:
    logits = torch.zeros(4, 100)
    logits[0, 3], logits[1, 4], logits[2], logits[3, 5] = math.nan, -math.inf, -math.inf, math.inf
    _, found = vocab_search.likely(logits, 1)
    assert found[1] == pytest.approx(1 / 99)
    assert found[[0, 2, 3]].isnan().all()


@pytest.mark.parametrize("dtype", FLOATS)
def test_no_second_copy_of_the_logits_is_made(dtype: torch.dtype) -> None:
    """Memory that is mapped afresh by every step costs more than the search in it."""

    class Largest(TorchDispatchMode):
        made = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **kwargs or {})
            known = {logits.untyped_storage().data_ptr()}
            for made in out if isinstance(out, tuple | list) else [out]:
                if isinstance(made, torch.Tensor) and made.untyped_storage().data_ptr() not in known:
                    self.made = max(self.made, made.numel())
            return out

    logits = torch.zeros(64, 50_000, dtype=dtype)
    with Largest() as largest:
        vocab_search.best(logits)
        vocab_search.top(logits, 16)
        vocab_search.likely(logits, 16, 0.7)
    assert 0 < largest.made <= 50_000  # one row


def test_other_types_and_no_scores_are_left_to_torch() -> None:
    whole = torch.tensor([[3] * 70, [1] * 69 + [2]], dtype=torch.int32)
    assert vocab_search.best(whole).tolist() == [0, 69]
    assert vocab_search.top(whole, 1)[0].tolist() == [[3], [2]]
    with pytest.raises(IndexError):
        vocab_search.best(torch.zeros(2, 0))
