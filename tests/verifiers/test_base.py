"""The longest accepted path, by brute force."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from racer import DraftTree
from racer.testing import draft_trees
from racer.verifiers.base import last_of, longest_path


@given(draft_trees(), st.data())
def test_longest_path_is_that_of_brute_force(tree: DraftTree, data: st.DataObject) -> None:
    flags = st.lists(st.booleans(), min_size=tree.width, max_size=tree.width)
    accept = torch.tensor([data.draw(flags) for _ in range(tree.batch)])
    path, length = longest_path(tree, accept)
    for row in range(tree.batch):
        alive = {0: [0]}
        for node in range(1, int(tree.count[row])):
            parent = int(tree.parent[row, node])
            if accept[row, node] and parent in alive:
                alive[node] = [*alive[parent], node]
        best = max(alive.values(), key=len)
        assert path[row, : len(best)].tolist() == best
        assert int(length[row]) == len(best)
        assert int(last_of(path, length)[row]) == best[-1]
