"""The tree against brute force: no tree of its size over the same candidates promises more."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from racer.strategies.context import frontier as front
from racer.strategies.context import history as past
from racer.strategies.context.extraction import MAX_PREDICTIONS, NodeFeatures, _add_prediction
from racer.strategies.context.features import FEATURES
from racer.strategies.context.fitted import fitted_estimator
from racer.strategies.context.frontier import Frontier
from racer.strategies.context.growth import GrownTree, GrowScratch, grow
from racer.strategies.context.history import GRAM, History
from racer.strategies.context.learning import LearnScratch, Scored, learn
from racer.strategies.context.memory import Memory, Row, append_text
from racer.strategies.context.recent import ALIGNED_IDS, Recent
from racer.strategies.context.running_means import RunningMeans
from racer.strategies.context.top_k_table import TopKTable

VOCAB, K = 6, 4


def a_memory(slots: int = 64) -> Memory:
    tables = TopKTable.of(slots, K), RunningMeans.of(slots, K)
    return Memory(*tables, History.of(64), fitted_estimator(), np.ones(FEATURES, np.bool_))


def a_row() -> Row:
    return Row(History.of(64), History.of(64), Recent.of(K))


def read(memory: Memory, row: Row, text: list[int], noise: np.random.Generator) -> None:
    """Show ``text`` as a prompt, with made-up predictions."""
    ids = np.array([noise.permutation(VOCAB)[:K] for _ in text], np.int32)
    probs = -np.sort(-noise.dirichlet(np.full(K, 0.4), len(text)), axis=1).astype(np.float32)
    tokens = np.array(text, np.int64)
    chain = np.arange(-1, len(text) - 1)
    first, rest = tokens[:1].astype(np.int32), tokens[1:].astype(np.int32)
    nodes, unused, next_token = np.arange(len(text)), GrownTree.of(1), np.zeros(1, np.int64)
    scored = Scored(tokens[None], chain[None], nodes[None], next_token, ids[None].astype(np.int64), probs[None])
    learn(memory, row, first, unused, 0, scored, 0, len(text), len(text), LearnScratch.of(len(text), K))
    append_text(row, rest)


def grown(memory: Memory, row: Row, budget: int, least: float, chain: bool = False) -> GrownTree:
    """The tree below the end of the row's text."""
    growth, desk = GrownTree.of(budget + 1), GrowScratch.of(budget + 2, K)
    batch = np.zeros((4, 3, budget), np.int64)
    reals = batch.view(np.float64)
    count = grow(memory, row, np.empty(0, np.int32), budget, chain, VOCAB, least, growth, desk, batch, reals, 1)
    assert np.array_equal(batch[0, 1, 1:count], growth.tokens[1:count])
    assert np.array_equal(batch[1, 1, 1:count], growth.parent[1:count])
    assert np.array_equal(reals[3, 1, 1:count], growth.score[1:count])
    assert not batch[2].any()
    assert not batch[:, ::2].any()
    return GrownTree(*(part[:count] for part in growth))


def after(earlier: list[int], text: list[int], seed: int) -> tuple[Memory, Row]:
    """What is known when a text has followed an earlier one, and the text's row."""
    memory, row, noise = a_memory(), a_row(), np.random.default_rng(seed)
    read(memory, a_row(), earlier, noise)
    past.append(memory.past, np.array([*earlier, -1], np.int32), GRAM)
    read(memory, row, text, noise)
    return memory, row


texts = st.lists(st.integers(0, VOCAB - 1), min_size=2, max_size=30)


@settings(max_examples=80)
@given(text=texts, earlier=texts, seed=st.integers(0, 2**32), budget=st.integers(2, 6))
def test_no_tree_of_its_size_promises_more(text: list[int], earlier: list[int], seed: int, budget: int) -> None:
    memory, row = after(earlier, text, seed)
    every = grown(memory, row, 14, 1e-5)  # all that may stand in a small tree, and more
    tree = grown(memory, row, budget, 1e-5)
    best = max(
        sum(float(every.score[node]) for node in (0, *nodes))
        for nodes in combinations(range(1, len(every.tokens)), len(tree.tokens) - 1)
        if all(every.parent[node] in (0, *nodes) for node in nodes)
    )
    assert np.isclose(tree.score.sum(), best, rtol=1e-5)


@given(text=texts, earlier=texts, seed=st.integers(0, 2**32), budget=st.integers(1, 8))
def test_a_chain_takes_the_best_child_of_each_node(text: list[int], earlier: list[int], seed: int, budget: int) -> None:
    memory, row = after(earlier, text, seed)
    chain, every = grown(memory, row, budget, 1e-5, chain=True), grown(memory, row, 200, 1e-5)
    assert (chain.parent == np.arange(-1, len(chain.parent) - 1)).all()
    at = 0
    for node in range(1, budget):
        children = [child for child in range(1, len(every.tokens)) if every.parent[child] == at]
        if not children:
            break
        assert node < len(chain.tokens)
        assert chain.score[node] == every.score[children].max()
        at = next(child for child in children if every.tokens[child] == chain.tokens[node])


@given(text=texts, seed=st.integers(0, 2**32), budget=st.integers(1, 40), least=st.sampled_from([1e-5, 0.01, 0.2]))
def test_trees_are_well_formed(text: list[int], seed: int, budget: int, least: float) -> None:
    memory, row = a_memory(slots=2), a_row()
    read(memory, row, text, np.random.default_rng(seed))
    tree = grown(memory, row, budget, least)
    assert tree.tokens[0] == text[-1]
    assert 1 <= len(tree.tokens) <= budget
    assert (tree.parent[1:] < np.arange(1, len(tree.parent))).all()
    assert (tree.parent[1:] >= 0).all()
    assert ((tree.tokens >= 0) & (tree.tokens < VOCAB)).all()
    assert (tree.score[1:] <= tree.score[tree.parent[1:]]).all()
    assert (tree.score > least).all()
    assert (np.diff(tree.score) <= 0).all(), "best first, so that its beginnings are the best smaller trees"
    assert len(set(zip(tree.parent.tolist(), tree.tokens.tolist(), strict=True))) == len(tree.tokens)


@given(offers=st.lists(st.lists(st.integers(1, 1000), max_size=12), max_size=12), room=st.integers(1, 8))
def test_a_frontier_keeps_the_best(offers: list[list[int]], room: int) -> None:
    frontier, kept = Frontier.of(room), []
    front.clear(frontier)
    for scores in offers[:room]:
        for score in scores:
            bar = front.threshold(frontier, room, 0.5)
            assert bar == (kept[0] if len(kept) >= room else 0.5)
            if score > bar:
                place = front.push(frontier, room, score, 0, score)
                assert frontier.score[place] == score
                kept = sorted([*kept, score])[-room:]
        if kept and room:
            assert frontier.score[front.pop_best(frontier)] == kept.pop()
            room -= 1
        assert frontier.size[0] == len(kept)


def test_top_k_hang_on_retrieved_nodes_and_matches_on_top_k() -> None:
    memory, row = a_memory(), a_row()
    read(memory, row, [1, 2, 3, 4, 5, 1, 2, 3], np.random.default_rng(0))
    tree = grown(memory, row, 40, 1e-5)
    path, node = [], 0
    for token in (4, 5, 1):
        node = next(i for i in range(len(tree.tokens)) if tree.parent[i] == node and tree.tokens[i] == token)
        path.append(node)
    assert any(tree.parent[i] in path and i not in path for i in range(len(tree.tokens)))


@pytest.mark.parametrize("k", [1, 4, ALIGNED_IDS])
def test_a_prediction_keeps_to_its_row(k: int) -> None:
    """Aligned predictions list 8 tokens, whatever ``top_k`` is; machine code would write them behind the last row."""
    ids, probs = np.full((MAX_PREDICTIONS + 8, k), 77, np.int32), np.full((MAX_PREDICTIONS + 8, k), 0.5, np.float32)
    features = NodeFeatures.of(k)._replace(ids=ids[:MAX_PREDICTIONS], probs=probs[:MAX_PREDICTIONS])
    features.predictions[0] = MAX_PREDICTIONS - 1
    long_ids, long_probs = np.arange(ALIGNED_IDS, dtype=np.int32), np.full(ALIGNED_IDS, 0.1, np.float32)
    mass = _add_prediction(features, 0, 0, long_ids, long_probs)
    assert (features.listed[-1], mass) == (k, pytest.approx(0.1 * k))
    assert ids[MAX_PREDICTIONS - 1].tolist() == list(range(k))
    assert (ids[MAX_PREDICTIONS:] == 77).all()
    assert (probs[MAX_PREDICTIONS:] == 0.5).all()


@pytest.mark.parametrize("path", [[], [0, 2], [0, 2000], [-1]])
def test_a_path_beyond_the_tree_teaches_nothing(path: list[int]) -> None:
    """Machine code would write to wherever it points."""
    memory, row = a_memory(), a_row()
    tokens, parent = np.array([1, 2]), np.array([-1, 0])
    ids, probs = np.array([[[3, 4], [4, 5]]]), np.full((1, 2, 2), 0.5, np.float32)
    new, unused, lesson = np.array([1], np.int32), GrownTree.of(1), LearnScratch.of(2, K)
    wrong, right = np.array([path], np.int64), np.array([[0, 0]])
    scored = Scored(tokens[None], parent[None], wrong, np.zeros(1, np.int64), ids, probs)
    assert not learn(memory, row, new, unused, 0, scored, 0, 2, len(path), lesson)
    good = scored._replace(path=right)
    for beyond in ((good, 1, 2, 1), (good, -1, 2, 1), (good, 0, 3, 1), (good, 0, 0, 1), (good, 0, 2, 3)):
        assert not learn(memory, row, new[:0], unused, 0, *beyond, lesson)
    for name in ("tokens", "parent", "next_token", "ids", "probs"):
        short = good._replace(**{name: getattr(good, name)[:0]})
        assert not learn(memory, row, new[:0], unused, 0, short, 0, 2, 1, lesson)
    assert not learn(memory, row, new[:0], unused, 0, good._replace(probs=probs[:, :, :1].copy()), 0, 2, 1, lesson)
    assert not memory.top_k.words.any()
    assert learn(memory, row, new[:0], unused, 0, scored._replace(path=right), 0, 2, 1, lesson)
    assert memory.top_k.words.any()
