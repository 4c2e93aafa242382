"""The drafter ``recycling``: its shape, its reading and its learning against brute force."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from racer import DecodeConfig, Decoder, DraftTree, Recycling, Verdict
from racer.errors import ConfigError
from racer.strategies.recycling import FIRST, LARGEST, OTHERS, Matrix, shape
from racer.testing import check_drafter, decode, toy_model

VOCAB = 9


def chance(rank: int) -> float:
    return FIRST if rank == 0 else OTHERS / rank


@pytest.mark.parametrize("top_k", [1, 2, 8])
def test_every_beginning_of_the_shape_is_the_best_tree_of_its_size(top_k: int) -> None:
    parents, ranks = shape(top_k, 100)
    paths: list[tuple[int, ...]] = [()]
    for parent, rank in zip(parents[1:], ranks[1:], strict=True):
        paths.append((*paths[parent], rank))
    assert len(set(paths)) == len(paths) == 100
    scores = [math.prod(map(chance, path)) for path in paths]
    assert scores == pytest.approx(sorted(scores, reverse=True), rel=1e-9)
    missing = {(*path, rank) for path in paths for rank in range(top_k)} - set(paths)
    assert max(math.prod(map(chance, path)) for path in missing) <= min(scores) * (1 + 1e-9)


@given(
    rows=st.integers(1, 3),
    nodes=st.one_of(st.integers(1, 70), st.sampled_from([LARGEST, LARGEST + 9])),
    top_k=st.integers(1, 8),
    seed=st.integers(0, 99),
)
def test_a_tree_is_read_off_the_matrix(rows: int, nodes: int, top_k: int, seed: int) -> None:
    generator, matrix = torch.Generator().manual_seed(seed), Matrix(top_k, VOCAB, torch.device("cpu"))
    matrix.next = torch.randint(0, VOCAB, matrix.next.shape, generator=generator)
    root = torch.randint(0, VOCAB, (rows,), generator=generator)
    tree = matrix.draft(root, nodes)
    parents, ranks = shape(top_k, LARGEST)
    assert tree.width == min(nodes, LARGEST)
    assert tree.count.tolist() == [tree.width] * rows
    assert not tree.faults(root, VOCAB).any()
    for row in range(rows):
        tokens = [int(root[row])]
        for parent, rank in zip(parents[1 : tree.width], ranks[1:], strict=False):
            tokens.append(int(matrix.next[tokens[parent], rank]))
        assert tree.tokens[row].tolist() == tokens
        assert tree.parent[row].tolist() == parents[: tree.width]


@given(st.data())
def test_what_the_model_thought_is_learned_of_active_rows_alone(data: st.DataObject) -> None:
    rows, width, k = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3)), data.draw(st.integers(1, 4))
    matrix = Matrix(k, VOCAB, torch.device("cpu"))
    before = matrix.next.clone()
    # each once: of equals, any may stay; some beyond the vocabulary, as of a prompt where the head has fewer rows
    flat = data.draw(st.permutations(range(VOCAB + 2)))[: rows * width]
    tokens = torch.tensor(flat).view(rows, width)
    numbers = st.lists(st.integers(0, VOCAB + 3), min_size=rows * width * 4, max_size=rows * width * 4)
    cues = torch.tensor(data.draw(numbers)).view(rows, width, 4)  # more than asked for; some beyond the vocabulary
    count = torch.tensor(data.draw(st.lists(st.integers(1, width), min_size=rows, max_size=rows)))
    active = torch.tensor(data.draw(st.lists(st.booleans(), min_size=rows, max_size=rows)))
    verdict = Verdict(torch.zeros_like(tokens), torch.ones_like(count), tokens[:, 0], top_ids=cues)
    matrix.observe(DraftTree.chain(tokens, count), verdict, active)
    expected = before.clone()
    for row in range(rows):
        for column in range(int(count[row]) if active[row] else 0):
            if tokens[row, column] < VOCAB:
                expected[tokens[row, column]] = cues[row, column, :k].clamp(max=VOCAB - 1)
    assert torch.equal(matrix.next[:VOCAB], expected[:VOCAB])


def test_it_changes_nothing_but_speed() -> None:
    check_drafter(Recycling, max_examples=30)


def test_what_was_thought_of_once_is_thought_again() -> None:
    model, drafter = toy_model(VOCAB), Recycling(3)
    decoder = Decoder(model, DecodeConfig(drafter=drafter, budget=16))
    rows, stats = decode(decoder, [[1, 2, 3, 4]], 60)
    assert stats.mean_accepted_tokens > 1.2
    with torch.inference_mode():  # what was made outside is written to inside, and the other way round
        assert decode(Decoder(model, DecodeConfig(drafter=drafter, budget=16)), [[1, 2, 3, 4]], 60)[0] == rows
    assert list(drafter._programs) == [(torch.device("cpu"), VOCAB)]
    with torch.inference_mode():
        inside = Recycling(3)
        decode(Decoder(model, DecodeConfig(drafter=inside, budget=16)), [[1, 2, 3, 4]], 10)
    assert decode(Decoder(model, DecodeConfig(drafter=inside, budget=16)), [[1, 2, 3, 4]], 60)[0] == rows


def test_top_k_is_checked() -> None:
    with pytest.raises(ConfigError, match="top_k must be at least 1, not 0"):
        Recycling(0)
