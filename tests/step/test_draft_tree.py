"""DraftTree against brute force over paths."""

from __future__ import annotations

import random

import attrs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from racer import DraftTree, TreeBuilder, stack
from racer.step.draft_tree import FAULTS, _faults
from racer.testing import draft_trees


def path_of(tree: DraftTree, row: int, node: int) -> list[int]:
    """Columns from the root to ``node``."""
    path = [node]
    while path[0]:
        path.insert(0, int(tree.parent[row, path[0]]))
    return path


def spelled(tree: DraftTree, row: int) -> list[tuple[int, ...]]:
    """The token path of each node, in column order."""
    return [tuple(int(tree.tokens[row, i]) for i in path_of(tree, row, n)) for n in range(int(tree.count[row]))]


@given(draft_trees())
def test_ancestors_and_depth_are_those_of_the_paths(tree: DraftTree) -> None:
    for row in range(tree.batch):
        for node in range(int(tree.count[row])):
            path = path_of(tree, row, node)
            assert tree.ancestors[row, node].nonzero().flatten().tolist() == path
            assert int(tree.depth[row, node]) == len(path) - 1


@given(draft_trees(), st.floats(0, 1))
def test_prune_keeps_nodes_whose_whole_path_scores_enough(tree: DraftTree, bar: float) -> None:
    pruned = tree.prune(bar)
    for row in range(tree.batch):
        nodes = range(int(tree.count[row]))
        keep = [n for n in nodes if all(i == 0 or tree.score[row, i] >= bar for i in path_of(tree, row, n))]
        assert spelled(pruned, row) == [spelled(tree, row)[n] for n in keep]
    assert pruned.width == int(pruned.count.max())


def test_prune_without_scores_says_so() -> None:
    with pytest.raises(ValueError, match="scores"):
        DraftTree.root(torch.tensor([1])).prune(0.5)


@given(draft_trees(max_batch=1, distinct_siblings=True), draft_trees(max_batch=1, distinct_siblings=True))
def test_union_is_the_union_of_paths_ours_first(ours: DraftTree, theirs: DraftTree) -> None:
    theirs.tokens[:, 0] = ours.tokens[:, 0]
    both = ours.union(theirs)
    mine, other = spelled(ours, 0), spelled(theirs, 0)
    assert spelled(both, 0) == mine + [path for path in other if path not in mine]
    assert int(both.faults(ours.tokens[:, 0], 5)) == 0
    codes = both.source[0, : int(both.count[0])].tolist()
    assert codes == [0] * len(mine) + [1] * (len(codes) - len(mine))


@pytest.mark.parametrize("silent", ["ours", "theirs", "both"])
def test_union_knows_whose_a_node_is_where_one_side_does_not_say(silent: str) -> None:
    ours, theirs = (
        DraftTree(
            torch.tensor([[1, token]]),
            torch.tensor([[-1, 0]]),
            torch.tensor([2]),
            None,
            torch.zeros(1, 2).long(),
            (name,),
        )
        for token, name in ((2, "a"), (3, "b"))
    )
    if silent != "theirs":
        ours = attrs.evolve(ours, source=None, sources=())
    if silent != "ours":
        theirs = attrs.evolve(theirs, source=None, sources=())
    both = ours.union(theirs)
    assert both.source is not None
    names = [both.sources[code] for code in both.source[0, 1:].tolist()]
    assert names == ["a" if silent == "theirs" else "", "b" if silent == "ours" else ""]


@given(draft_trees(max_batch=3), st.data())
def test_union_works_row_by_row(ours: DraftTree, data: st.DataObject) -> None:
    theirs = data.draw(draft_trees(max_batch=1, distinct_siblings=True))
    wide = attrs.evolve(
        theirs,
        **{
            name: getattr(theirs, name).expand(ours.batch, -1).clone()
            for name in ("tokens", "parent", "score", "source")
        },
        count=theirs.count.expand(ours.batch),
    )
    wide.tokens[:, 0] = ours.tokens[:, 0]
    both = ours.union(wide)
    for row in range(ours.batch):
        one = attrs.evolve(
            ours, **{n: getattr(ours, n)[row : row + 1] for n in ("tokens", "parent", "score", "source", "count")}
        )
        other = attrs.evolve(
            wide, **{n: getattr(wide, n)[row : row + 1] for n in ("tokens", "parent", "score", "source", "count")}
        )
        assert spelled(both, row) == spelled(one.union(other), 0)


@given(draft_trees(), st.integers(1, 12))
def test_the_first_columns_are_a_tree(tree: DraftTree, width: int) -> None:
    head = tree.head(width)
    assert head.width == min(width, tree.width)
    for row in range(tree.batch):
        assert spelled(head, row) == spelled(tree, row)[:width]


@given(draft_trees())
def test_sound_trees_have_no_faults(tree: DraftTree) -> None:
    root = tree.tokens[:, 0]
    assert tree.faults(root, 5).tolist() == [0] * tree.batch
    same = tree.sound(tree.faults(root, 5), root)
    assert [spelled(same, row) for row in range(tree.batch)] == [spelled(tree, row) for row in range(tree.batch)]


BROKEN = {
    1: lambda tree: tree.tokens.__setitem__((0, 0), 4),
    2: lambda tree: tree.parent.__setitem__((0, 1), 1),
    4: lambda tree: tree.tokens.__setitem__((0, 2), 5),
    8: lambda tree: tree.score.__setitem__((0, 1), float("nan")),
    16: lambda tree: tree.count.__setitem__(0, 9),
    32: lambda tree: tree.source.__setitem__((0, 1), 1),
}


@pytest.mark.parametrize("bit", FAULTS)
def test_each_fault_is_found_and_mended(bit: int) -> None:
    tree = DraftTree(
        torch.tensor([[1, 2, 3], [1, 2, 3]]),
        torch.tensor([[-1, 0, 1], [-1, 0, 0]]),
        torch.tensor([3, 3]),
        torch.ones(2, 3),
        torch.zeros(2, 3, dtype=torch.long),
        ("drawn",),
    )
    BROKEN[bit](tree)
    root = torch.tensor([1, 1])
    faults = tree.faults(root, 5)
    assert faults.tolist() == [bit, 0]
    sound = tree.sound(faults, root)
    assert sound.faults(root, 5).tolist() == [0, 0]
    assert spelled(sound, 0) == [(1,)]
    assert spelled(sound, 1) == [(1,), (1, 2), (1, 3)]


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 4)), max_size=30), st.integers(1, 12))
def test_builder_makes_a_trie_within_its_budget(adds: list[tuple[int, int]], budget: int) -> None:
    builder = TreeBuilder(3, budget)
    for parent, token in adds:
        builder.add(parent % len(builder), token)
    tree = stack([builder, TreeBuilder(2, budget)], "test")
    assert tree.width == len(builder) <= budget
    assert tree.faults(torch.tensor([3, 2]), 5).tolist() == [0, 0]
    paths = spelled(tree, 0)
    assert len(set(paths)) == len(paths)
    assert spelled(tree, 1) == [(2,)]


@pytest.mark.gpu
def test_trees_move_to_the_device_in_one_piece() -> None:
    builder = TreeBuilder(3, 8)
    builder.add_chain([1, 2, 1])
    tree = stack([builder], "test")
    moved = tree.to(torch.device("cuda"))
    assert spelled(moved, 0) == spelled(tree, 0)
    assert moved.ancestors.device.type == "cuda"


@given(draft_trees(), st.integers(0, 2**31))
def test_the_check_is_the_same_by_arrays_and_by_tensors(tree: DraftTree, damage: int) -> None:
    draw = random.Random(damage)
    score = tree.score.to(torch.bfloat16)  # numpy has no such type
    for part, values in ((tree.tokens, (-1, 5)), (tree.parent, (-2, 9)), (tree.source, (-1, 1)), (score, (torch.nan,))):
        if draw.random() < 0.4:
            part[draw.randrange(tree.batch), draw.randrange(tree.width)] = draw.choice(values)
    if draw.random() < 0.3:
        tree.count[draw.randrange(tree.batch)] = draw.choice((0, tree.width + 1))
    tree = attrs.evolve(tree, score=score.requires_grad_())
    root = tree.tokens[:, 0] + (draw.random() < 0.2)
    parts = [tree.tokens, tree.parent, tree.count, score.isnan(), tree.source, root]
    by_tensors = _faults(parts, torch.arange(tree.width), 5, len(tree.sources))
    assert by_tensors.dtype == torch.int64
    assert torch.equal(tree.faults(root, 5), by_tensors)


def test_a_sound_full_tree_is_passed_on_as_it_is() -> None:
    tree = DraftTree(torch.tensor([[3, 1]]), torch.tensor([[-1, 0]]), torch.tensor([2]))
    assert tree.sound(torch.tensor([0]), torch.tensor([3])) is tree
    padded = attrs.evolve(tree, tokens=torch.tensor([[3, 99]]), count=torch.tensor([1]))
    assert padded.sound(torch.tensor([0]), torch.tensor([3])).tokens.tolist() == [[3, 0]]
