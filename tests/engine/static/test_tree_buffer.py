"""A tree and its way through the buffer."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from racer.engine.static.tree_buffer import TreeBuffer
from racer.step.draft_tree import DraftTree
from racer.testing import draft_trees


@given(draft_trees(max_nodes=9), st.integers(0, 4))
def test_a_tree_survives_its_sheet(tree: DraftTree, more: int) -> None:
    sheet = TreeBuffer(tree.batch, tree.width + more, torch.device("cpu"))
    sheet.fold(tree.padded(sheet.nodes))  # what was there before is gone
    sheet.inbox.copy_(sheet.fold(tree))
    drafted, kinds = sheet.drafted()
    root = tree.tokens[:, 0]
    assert not drafted.faults(root, 10**6, kinds).any()
    sheet.put(drafted.sound(torch.zeros_like(root), root), torch.zeros_like(root))
    shown = sheet.shown(tree)
    sound = tree.sound(torch.zeros_like(root), root)
    for name in ("tokens", "parent", "count", "source"):
        assert torch.equal(getattr(shown, name), getattr(sound, name))
    assert torch.allclose(shown.score.float(), sound.score)
    assert shown.sources == tree.sources
