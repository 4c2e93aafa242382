"""The copy-logit table against a dictionary, and the paper's worked example."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from racer import DraftTree, Logits, Request, StepView, TreeBuilder, Verdict
from racer.errors import ConfigError
from racer.hf.processors import ProcessorPipeline
from racer.strategies.logits import child_breadth

VOCAB, TOP = 9, 3


def make_view(requests: tuple[Request, ...], active: tuple[bool, ...], vocab_size: int = VOCAB) -> StepView:
    root = torch.tensor([request.tokens[-1] for request in requests])
    return StepView(
        requests=requests, active=active, root=root, position=root * 0, vocab_size=vocab_size,
        pipeline=ProcessorPipeline(), do_sample=False,
    )  # fmt: skip


def observe(
    drafter: Logits, tokens: list[list[int]], count: list[int], ids: list[list[list[int]]], active: list[bool]
) -> None:
    """Show the drafter a scored tree with these top ids."""
    tree = DraftTree.chain(torch.tensor(tokens), torch.tensor(count))
    length = torch.ones(len(tokens), dtype=torch.long)
    verdict = Verdict(tree.tokens * 0, length, length, top_ids=torch.tensor(ids))
    verdict.to_host(tree, length * 0)
    drafter.observe(make_view(tuple(Request((0,)) for _ in tokens), tuple(active)), tree, verdict)


class TableMachine(RuleBasedStateMachine):
    """The latest scored position of each token wins, accepted or not; padding and finished rows teach nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.drafter = Logits(TOP)
        self.model: dict[int, list[int]] = {}

    @rule(data=st.data(), batch=st.integers(1, 2), width=st.integers(1, 5))
    def score(self, data: st.DataObject, batch: int, width: int) -> None:
        cell = st.integers(0, VOCAB - 1)
        tokens = [[data.draw(cell) for _ in range(width)] for _ in range(batch)]
        count = [data.draw(st.integers(0, width)) for _ in range(batch)]
        active = [data.draw(st.booleans()) for _ in range(batch)]
        ids = [[data.draw(st.permutations(range(VOCAB)))[: TOP + 1] for _ in range(width)] for _ in range(batch)]
        observe(self.drafter, tokens, count, ids, active)
        for row in range(batch):
            for node in range(count[row] if active[row] else 0):
                self.model[tokens[row][node]] = ids[row][node][:TOP]

    @invariant()
    def table_is_the_model(self) -> None:
        for token in range(VOCAB):
            builder = TreeBuilder(token, 1 + TOP)
            self.drafter.grow(Request((token,)), builder)
            assert builder.tokens[1:] == self.model.get(token, [])

    @invariant()
    def memory_is_constant(self) -> None:
        assert self.drafter.table.nbytes in (0, 4 * TOP * VOCAB)


TestTable = TableMachine.TestCase
TestTable.settings = settings(max_examples=40, stateful_step_count=12, deadline=None)


def test_worked_example_of_the_paper() -> None:
    """k = 4, capacity 21, child j of token t is 4t + j + 1."""
    drafter = Logits(top_k=4)
    drafter.table = np.array([[4 * token + j + 1 for j in range(4)] for token in range(100)], dtype=np.int32)
    builder = TreeBuilder(0, 21)
    drafter.grow(Request((0,)), builder)
    parents = set(builder.parents)
    leaves = []
    for node in range(len(builder)):
        if node not in parents:
            path = [node]
            while path[0]:
                path.insert(0, builder.parents[path[0]])
            leaves.append("-".join(str(builder.tokens[i]) for i in path))
    assert sorted(leaves) == sorted(
        ["0-4-17", "0-1-5-21", "0-1-5-22", "0-1-6-25", "0-1-7-29", "0-1-8-33", "0-2-9-37", "0-2-10-41", "0-3-13-53"]
    )
    assert len(builder) == 21


@pytest.mark.parametrize(
    ("breadth", "root", "expected"), [(8, True, [8, 4, 2, 1, 1]), (8, False, [4, 2, 1, 1]), (1, False, [1])]
)
def test_breadth_halves_with_rank(breadth: int, root: bool, expected: list[int]) -> None:
    assert [child_breadth(breadth, child, root) for child in range(len(expected))] == expected


def test_top_k_below_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        Logits(0)
