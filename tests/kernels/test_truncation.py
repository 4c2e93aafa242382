"""Sampling that does not sort the vocabulary keeps the tokens that transformers keeps, and draws the same one."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    LogitsProcessor,
    MinPLogitsWarper,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from racer.engine.static.cuda_graphs import CaptureCheck
from racer.hf.processors import ProcessorPipeline
from racer.hf.processors.drawing import MANY
from racer.kernels import truncation
from racer.kernels.gumbel import gumbel
from racer.step.verdict import NO_TOKEN

SIZES = st.sampled_from([1, 2, 5, 63, 64, 65, 700, 5000])
MASSES = st.one_of(st.sampled_from([0.0, 1e-6, 0.5, 0.8, 0.9, 0.999, 1.0]), st.floats(0, 1))
SHARES = st.one_of(st.sampled_from([0.0, 0.05, 1.0]), st.floats(0, 1))
LEAST = st.sampled_from([1, 1, 2, 70])
TOP_KS = st.sampled_from([1, 2, 7, 50, 6000])


class StableTopP(TopPLogitsWarper):
    """By the letter of transformers, but of equal scores the first ids go first. There an unstable sort decides."""

    def __call__(self, input_ids: Any, scores: Tensor) -> Tensor:
        values, ids = scores.sort(stable=True)
        removed = values.softmax(-1).cumsum(-1) <= 1 - self.top_p
        removed[:, -self.min_tokens_to_keep :] = False
        return scores.masked_fill(removed.scatter(1, ids, removed), -torch.inf)


def make_logits(rows: int, size: int, kind: str, spread: float, seed: int) -> Tensor:
    """``[M, V]``; those of kind "equal" are full of ties, also at the edges of filters."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, size, generator=generator, dtype=torch.float64) * spread
    if kind == "equal":
        return logits.round().float()
    if kind == "banned":
        logits[:, 1:][torch.rand(rows, size - 1, generator=generator) < 0.5] = -torch.inf
        return logits.float()
    return logits.to(getattr(torch, kind))


KINDS = st.sampled_from(["equal", "banned", "bfloat16", "float32", "float64"])
SPREADS = st.sampled_from([0.0, 0.3, 2.0, 12.0])
SEEDS = st.integers(0, 2**40)
logits_rows = st.builds(make_logits, st.integers(1, 3), SIZES, KINDS, SPREADS, SEEDS)
row_scores = st.builds(make_logits, st.just(1), SIZES, KINDS, SPREADS, SEEDS).map(lambda logits: logits[0].float())


def left_by(step: LogitsProcessor, scores: Tensor) -> list[int]:
    return (step(None, scores[None])[0] > -torch.inf).nonzero()[:, 0].tolist()


def possible(ids: Tensor, scores: Tensor) -> list[int]:
    """Ids without those of score -inf, which are neither kept nor dropped by any filter."""
    return [token for token in ids.tolist() if scores[token] > -torch.inf]


def on_the_edge(scores: Tensor, mass: float) -> set[int]:
    """Tokens that top-p keeps or drops by the last digit of a float32, so by the order in which it adds up; and those
    that weigh as little as what is lost when whole numbers are added up."""
    ids = scores.sort(stable=True).indices
    up_to = scores.softmax(-1)[ids].double().cumsum(-1)
    digit = 2**-22 * (1 - mass) + len(ids) / truncation.WHOLE
    return set(ids[(up_to - (1 - mass)).abs() < digit].tolist()) if mass < 1 else set()


@given(row_scores, TOP_KS)
def test_top_k_keeps_the_same_tokens(scores: Tensor, k: int) -> None:
    assert possible(truncation.top_k(scores, k), scores) == left_by(TopKLogitsWarper(k), scores)


@given(row_scores, SHARES)
def test_min_p_keeps_the_same_tokens(scores: Tensor, share: float) -> None:
    assert possible(truncation.min_p(scores, share), scores) == left_by(MinPLogitsWarper(share), scores)


@given(row_scores, SHARES, LEAST)
def test_min_p_keeps_the_least_it_must(scores: Tensor, share: float, least: int) -> None:
    """Of equally likely tokens any may be kept, so scores are compared."""
    theirs = left_by(MinPLogitsWarper(share, min_tokens_to_keep=least), scores)
    ours = possible(truncation.min_p(scores, share, least), scores)
    likely = scores.softmax(-1)
    assert sorted(likely[ours].tolist()) == sorted(likely[theirs].tolist())


TO_THE_LAST_DIGIT = make_logits(2, 5000, "equal", 0.3, 999999)
"""With a mass of 0.8, a token stands at 1 - 0.8 as exactly as float32 can tell."""


@given(row_scores, MASSES, LEAST)
@example(TO_THE_LAST_DIGIT[0], 0.8, 1)
@example(TO_THE_LAST_DIGIT[1], 0.8, 1)
def test_top_p_keeps_the_same_tokens(scores: Tensor, mass: float, least: int) -> None:
    ours, edge = possible(truncation.top_p(scores, mass, least), scores), on_the_edge(scores, mass)
    assert set(ours) ^ set(left_by(StableTopP(mass, min_tokens_to_keep=least), scores)) <= edge
    theirs = left_by(TopPLogitsWarper(mass, min_tokens_to_keep=least), scores)
    if not edge:
        assert sorted(scores[ours].tolist()) == sorted(scores[theirs].tolist())


@given(logits_rows, MASSES, LEAST)
@example(torch.tensor([[0.0, -60.0, -torch.inf]]), 1.0, 1)  # hardly possible, and kept
@example(TO_THE_LAST_DIGIT, 0.8, 1)
def test_a_mask_of_top_p_keeps_the_same_tokens(logits: Tensor, mass: float, least: int) -> None:
    """What accelerators use, on a CPU."""
    scores = logits.float()
    for row, kept in zip(scores, truncation.top_p_mask(scores, mass, least), strict=True):
        ours, edge = set(possible(kept.nonzero()[:, 0], row)), on_the_edge(row, mass)
        assert ours ^ set(possible(truncation.top_p(row, mass, least), row)) <= edge
        assert ours ^ set(left_by(StableTopP(mass, min_tokens_to_keep=least), row)) <= edge


def test_a_mask_needs_nothing_from_the_host_and_no_sort() -> None:
    class NoSort(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            assert "sort" not in func._schema.name
            return func(*args, **kwargs or {})

    scores = torch.randn(3, 1000)
    with CaptureCheck(), NoSort():  # type: ignore[no-untyped-call]
        truncation.top_p_mask(scores, 0.9)
        elsewhere = torch.empty(MANY, 1000, dtype=torch.bfloat16, device="meta")
        assert ProcessorPipeline([TopPLogitsWarper(0.9), MinPLogitsWarper(0.1)]).batch(elsewhere).shape == (MANY, 1000)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "step", [TopPLogitsWarper(0.9), TopPLogitsWarper(0.5, min_tokens_to_keep=3), MinPLogitsWarper(0.1)]
)
def test_a_gpu_keeps_what_transformers_keeps(step: Any) -> None:
    logits = make_logits(64, 5000, "bfloat16", 2.0, 0)
    kept = ProcessorPipeline([step]).batch(logits.cuda()).cpu() > -torch.inf
    for ours, row in zip(kept, logits.float(), strict=True):
        assert sorted(row[ours].tolist()) == sorted(row[left_by(step, row)].tolist())


def drawn(logits: Tensor, steps: list[Any], seed: int) -> list[int]:
    """What a whole vocabulary of processed scores and noise gives; ``NO_TOKEN`` where none is left."""
    seeds, positions = keys(logits, seed)
    scores = logits.float()
    for step in steps:
        scores = step(None, scores)
    best = (scores + gumbel(seeds, positions, logits.shape[1])).argmax(-1)
    return torch.where((scores == -math.inf).all(-1), NO_TOKEN, best).tolist()


def keys(logits: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    return torch.arange(len(logits)) + seed, torch.arange(len(logits)) * 5


temperatures = st.builds(TemperatureLogitsWarper, st.sampled_from([0.05, 0.7, 1.0, 1.5, 30.0]))
top_ks = st.builds(lambda k, least: TopKLogitsWarper(k, min_tokens_to_keep=least), TOP_KS, LEAST)
top_ps = st.builds(lambda mass, least: TopPLogitsWarper(mass, min_tokens_to_keep=least), MASSES, LEAST)
min_ps = st.builds(MinPLogitsWarper, SHARES)
bans = st.just(SuppressTokensLogitsProcessor([0], device="cpu"))


@given(
    logits_rows.filter(lambda logits: logits.shape[1] > 1),
    st.lists(st.one_of(temperatures, bans), max_size=2),
    st.lists(st.one_of(temperatures, top_ks, top_ps, min_ps), max_size=4),
    SEEDS,
)
def test_the_token_is_that_of_processors_and_noise(
    logits: Tensor, before: list[Any], filters: list[Any], seed: int
) -> None:
    stable = [
        StableTopP(step.top_p, min_tokens_to_keep=step.min_tokens_to_keep) if type(step) is TopPLogitsWarper else step
        for step in (*before, *filters)
    ]
    found = ProcessorPipeline([*before, *filters]).draw(logits, *keys(logits, seed)).tolist()
    assert found == drawn(logits, stable, seed)


@pytest.mark.parametrize(
    "behind",
    [
        SuppressTokensLogitsProcessor([0, 3], device="cpu"),
        TypicalLogitsWarper(0.8),
        TopKLogitsWarper(3, filter_value=-2.0),
        MinPLogitsWarper(0.3, filter_value=-9.0),
    ],
    ids=lambda step: type(step).__name__,
)
def test_processors_that_need_the_whole_vocabulary_get_it(behind: Any) -> None:
    logits = make_logits(40, 300, "float32", 2.0, 1)
    steps = [TemperatureLogitsWarper(0.7), TopPLogitsWarper(0.9), behind]
    assert ProcessorPipeline(steps).draw(logits, *keys(logits, 3)).tolist() == drawn(logits, steps, 3)


@given(logits_rows, st.lists(st.one_of(temperatures, top_ks, top_ps), max_size=3), SEEDS)
def test_a_token_does_not_depend_on_the_rows_beside_it(logits: Tensor, steps: list[Any], seed: int) -> None:
    """Nor on where its row lies in memory: that is what makes a tree's nodes decode as plain steps do."""
    seeds, positions = keys(logits, seed)
    pipeline = ProcessorPipeline(steps)
    together = pipeline.draw(logits, seeds, positions).tolist()
    strided = logits.repeat_interleave(2, 1)[:, ::2]
    for row in range(len(logits)):
        one = slice(row, row + 1)
        for scores in (logits[one].clone(), strided[one]):
            assert pipeline.draw(scores, seeds[one], positions[one]).tolist() == [together[row]]


class SortedSizes(TorchDispatchMode):
    """The longest row that was sorted, or searched for its best."""

    longest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in (torch.ops.aten.sort, torch.ops.aten.topk):
            self.longest = max(self.longest, args[0].shape[-1])
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("first", [TopPLogitsWarper(0.9), TopKLogitsWarper(50), MinPLogitsWarper(0.05)])
def test_the_vocabulary_is_not_sorted(first: LogitsProcessor) -> None:
    logits = make_logits(2, 50_000, "bfloat16", 4.0, 0)
    pipeline = ProcessorPipeline([TemperatureLogitsWarper(0.7), first, TopPLogitsWarper(0.95)])
    with SortedSizes() as sizes:
        pipeline.draw(logits, *keys(logits, 0))
    assert 0 < sizes.longest < 10_000
