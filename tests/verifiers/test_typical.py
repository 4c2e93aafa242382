"""Typical acceptance by its definition."""

from __future__ import annotations

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import racer
from racer import DecodeConfig, DraftTree, PerRow, Typical
from racer.errors import ConfigError
from racer.testing import draft_trees
from support.matchers import Copyable, Matcher
from support.step_view import make_view
from support.toy_batch import MODEL, VOCAB


class ReadsNothing:
    """Says that it may read prefixes."""

    racer_row_wise = True

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores


@given(
    draft_trees(vocab_size=4, distinct_siblings=True),
    st.integers(0, 99),
    st.floats(0.05, 0.9),
    st.floats(0.05, 1.0),
    st.booleans(),
)
def test_typical_accepts_by_its_definition(
    tree: DraftTree, seed: int, epsilon: float, delta: float, reads: bool
) -> None:
    logits = torch.randn(tree.batch, tree.width, 4, generator=torch.Generator().manual_seed(seed)) * 2
    steps = [ReadsNothing()] if reads else []  # goes through the slow route
    view = attrs.evolve(make_view(0, [0] * tree.batch, 4, steps), do_sample=False, root=tree.tokens[:, 0])
    verdict = Typical(epsilon, delta).verify(view, tree, logits)
    for row in range(tree.batch):
        alive = {0: [0]}
        for node in range(1, int(tree.count[row])):
            parent = int(tree.parent[row, node])
            p = logits[row, parent].double().softmax(0)
            bar = min(epsilon, delta * float(torch.exp((p * p.log()).sum())))
            if parent in alive and float(p[tree.tokens[row, node]]) > bar:
                alive[node] = [*alive[parent], node]
        best = max(alive.values(), key=len)
        assert verdict.path[row, : len(best)].tolist() == best
        assert int(verdict.next_token[row]) == int(logits[row, best[-1]].argmax())


@pytest.mark.parametrize("arguments", [{"epsilon": 0}, {"epsilon": 1.5}, {"delta": -1}, {"delta": float("nan")}])
def test_typical_refuses_senseless_thresholds(arguments: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="above 0 and at most 1"):
        Typical(**arguments)


@settings(max_examples=40)
@given(
    rows=st.integers(1, 3),
    seed=st.integers(0, 99),
    do_sample=st.booleans(),
    epsilon=st.floats(0.01, 0.9),
    stop=st.sampled_from([None, 5]),
)
def test_processors_with_a_memory_are_asked_about_one_way_down(
    rows: int, seed: int, do_sample: bool, epsilon: float, stop: int | None
) -> None:
    """They notice when a guess is shown to them, or what comes behind the end."""
    ids = torch.randint(0, VOCAB, (rows, 4), generator=torch.Generator().manual_seed(seed))
    how = {
        "input_ids": ids, "attention_mask": torch.ones_like(ids), "max_new_tokens": 15, "do_sample": do_sample,
        "eos_token_id": stop, "pad_token_id": 0, "logits_processor": [Copyable(stop)],
    }  # fmt: skip
    config = DecodeConfig(drafter="logits", budget=16, verifier=Typical(epsilon, 1.0), seed=1)
    out = racer.generate(MODEL, config=config, **how)
    assert out.shape[1] <= 19
    for row in out.tolist():
        for length in range(4, len(row)):
            if stop not in row[4:length]:  # each token is one that the matcher allows
                scores = Matcher()(torch.tensor([row[:length]]), torch.zeros(1, VOCAB))
                assert scores[0, row[length]] == 0


@given(draft_trees(vocab_size=4, distinct_siblings=True), st.integers(0, 99), st.floats(0.05, 0.9))
def test_the_likeliest_way_down_is_taken(tree: DraftTree, seed: int, epsilon: float) -> None:
    logits = torch.randn(tree.batch, tree.width, 4, generator=torch.Generator().manual_seed(seed)) * 2
    steps = [PerRow(lambda: lambda ids, scores: scores)]
    view = attrs.evolve(make_view(0, [0] * tree.batch, 4, steps), do_sample=False, root=tree.tokens[:, 0])
    verdict = Typical(epsilon, 0.5).verify(view, tree, logits)
    for row in range(tree.batch):
        nodes = [0]
        while True:
            p = logits[row, nodes[-1]].double().softmax(0)
            bar = min(epsilon, 0.5 * float(torch.exp((p * p.log()).sum())))
            children = [node for node in range(1, int(tree.count[row])) if int(tree.parent[row, node]) == nodes[-1]]
            best = max(children, key=lambda node: float(p[tree.tokens[row, node]]), default=None)
            if best is None or float(p[tree.tokens[row, best]]) <= bar:
                break
            nodes.append(best)
        assert verdict.path[row, : len(nodes)].tolist() == nodes
        assert int(verdict.length[row]) == len(nodes)
        assert int(verdict.next_token[row]) == int(logits[row, nodes[-1]].argmax())
