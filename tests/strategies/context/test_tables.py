"""The hashed tables against dictionaries, in tables so small that contexts keep pushing each other out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from racer.strategies.context import running_means, top_k_table
from racer.strategies.context.hash_table import IDS
from racer.strategies.context.hashing import NO_TOKEN, context_of
from racer.strategies.context.running_means import FROM, MEANS, TO, RunningMeans
from racer.strategies.context.top_k_table import MAX_CONTEXT, TopKTable

K = 4
tokens = st.lists(st.integers(0, 5), min_size=1, max_size=6)
predictions = st.dictionaries(st.integers(0, 9), st.integers(1, 64).map(lambda part: part / 64), min_size=1, max_size=K)


def as_arrays(prediction: dict[int, float]) -> tuple[np.ndarray, np.ndarray]:
    """Best first, as the model's predictions come; shorter than K on purpose."""
    best = sorted(prediction.items(), key=lambda item: -item[1])
    return np.array([token for token, _ in best], np.int32), np.array([prob for _, prob in best], np.float32)


def as_dict(ids: np.ndarray, probs: np.ndarray) -> dict[int, float]:
    assert (np.diff(probs[ids != NO_TOKEN]) <= 0).all(), "best first"
    named = {int(token): float(prob) for token, prob in zip(ids, probs, strict=True) if token != NO_TOKEN}
    assert len(named) == (ids != NO_TOKEN).sum(), "no token twice"
    return named


def line(table: TopKTable | RunningMeans, slot: int) -> tuple[np.ndarray, np.ndarray]:
    return table.words[slot, IDS:-K], table.reals[slot, -K:]


def top_k_slots(table: TopKTable, context: np.ndarray) -> list[int]:
    slots = np.zeros(MAX_CONTEXT, np.int64)
    top_k_table.find(table, context, slots)
    return slots.tolist()


class TablesAgainstDictionaries(RuleBasedStateMachine):
    """What a table finds is what was last put under this very context, or nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.top_k, self.means = TopKTable.of(4, K), RunningMeans.of(2, K)
        self.latest: dict[tuple[int, ...], dict[int, float]] = {}
        self.agreed: dict[tuple[int, ...], int] = {}
        self.request: dict[tuple[int, ...], int] = {}
        self.averaged: dict[tuple[int, tuple[int, ...]], dict[int, float]] = {}
        self.sizes = [part.nbytes for part in (*self.top_k, *self.means)]

    @rule(text=tokens, prediction=predictions, accepted=st.booleans(), request=st.integers(0, 2))
    def put(self, text: list[int], prediction: dict[int, float], accepted: bool, request: int) -> None:
        context, (ids, probs) = context_of(text, len(text)), as_arrays(prediction)
        for n in range(1, min(len(text), MAX_CONTEXT) + 1):
            key, was = tuple(text[-n:]), top_k_slots(self.top_k, context)[n - 1]
            again = was >= 0 and next(iter(as_dict(*line(self.top_k, was)))) == ids[0]
            self.agreed[key] = min(self.agreed[key] % 4 + 1, 3) if again else 0
            self.agreed[key] += 4 * accepted
            self.latest[key], self.request[key] = prediction, request
        for kind in range(MEANS):
            key2 = (kind, tuple(context[FROM[kind] : TO[kind]]))
            if len(text) < TO[kind]:
                continue
            slot = running_means.find(self.means, context, kind)
            old = as_dict(*line(self.means, slot)) if slot >= 0 else {}
            share = float(running_means.DECAY) if slot >= 0 else 0.0
            mixed = {token: share * prob for token, prob in old.items()}
            for token, prob in prediction.items():
                mixed[token] = mixed.get(token, 0.0) + (1 - share) * prob
            self.averaged[key2] = mixed
        top_k_table.store(self.top_k, context, ids, probs, accepted, request)
        running_means.update(self.means, context, ids, probs)
        self.check(text, must_hit=True)

    @rule(text=tokens)
    def look(self, text: list[int]) -> None:
        self.check(text, must_hit=False)

    def check(self, text: list[int], must_hit: bool) -> None:
        context = context_of(text, len(text))
        for n in range(1, MAX_CONTEXT + 1):
            slot = top_k_slots(self.top_k, context)[n - 1]
            assert slot >= 0 or n > len(text) or not must_hit
            if slot >= 0:
                assert as_dict(*line(self.top_k, slot)) == self.latest[tuple(text[-n:])]
                agreed, request = self.agreed[tuple(text[-n:])], self.request[tuple(text[-n:])]
                assert [top_k_table.confidence(self.top_k, slot, i) for i in range(3)] == [
                    agreed + 8 * (i == request) for i in range(3)
                ]
        for kind in range(MEANS):
            slot = running_means.find(self.means, context, kind)
            if slot >= 0:
                expected = self.averaged[kind, tuple(context[FROM[kind] : TO[kind]])]
                kept = as_dict(*line(self.means, slot))
                best = sorted(expected.values(), reverse=True)[:K]
                assert list(kept.values()) == pytest.approx(best, rel=1e-5)
                assert {token: expected[token] for token in kept} == pytest.approx(kept, rel=1e-5)

    @invariant()
    def memory_never_grows(self) -> None:
        assert [part.nbytes for part in (*self.top_k, *self.means)] == self.sizes


TestTablesAgainstDictionaries = TablesAgainstDictionaries.TestCase
TestTablesAgainstDictionaries.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_long_contexts_do_not_push_out_short_ones() -> None:
    table, rng = TopKTable.of(16, K), np.random.default_rng(0)
    ids, probs = as_arrays({3: 0.5})
    for _ in range(500):
        text = rng.integers(0, 1000, 3).tolist() + [7]
        top_k_table.store(table, context_of(text, 4), ids, probs, True, 0)
    assert top_k_slots(table, context_of([1, 7], 2))[0] >= 0


@given(kept=predictions, new=predictions, weight=st.integers(0, 8).map(lambda part: part / 8))
def test_an_average_keeps_the_best_of_both(kept: dict[int, float], new: dict[int, float], weight: float) -> None:
    ids, probs = np.full(K, NO_TOKEN, np.int32), np.zeros(K, np.float32)
    first_ids, first_probs = as_arrays(kept)
    ids[: len(kept)], probs[: len(kept)] = first_ids, first_probs
    running_means.average(ids, probs, np.float32(weight), *as_arrays(new))
    expected = {token: weight * kept.get(token, 0) + (1 - weight) * new.get(token, 0) for token in kept | new}
    best = sorted(expected.values(), reverse=True)[:K]
    assert list(as_dict(ids, probs).values()) == pytest.approx(best, rel=1e-4, abs=1e-6)
