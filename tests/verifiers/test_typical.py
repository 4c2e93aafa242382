"""Typical acceptance by its definition."""

from __future__ import annotations

import attrs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from racer import DraftTree, Typical
from racer.errors import ConfigError
from racer.testing import draft_trees
from support.step_view import make_view


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
