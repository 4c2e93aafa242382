"""What the released reference implementation gets wrong against its paper, each as a test of ours."""

from __future__ import annotations

from typing import Any

import torch

from racer import DecodeConfig, Decoder, Logits, Merge, Request, Retrieval, StepView, TreeBuilder, hookimpl
from racer.step.tree_builder import stack
from racer.strategies import racer_paper
from racer.strategies.automaton import Automaton
from racer.testing import decode, toy_model

VOCAB = 7
MODEL = toy_model(VOCAB)


def read(automaton: Automaton, text: list[int]) -> None:
    for end in range(1, len(text) + 1):
        automaton.insert(text[max(0, end - automaton.ngram) : end])


def test_failure_links_are_there_after_prefill_and_stay_right() -> None:
    automaton = Automaton(5, 200)
    read(automaton, [1, 2, 3, 4, 5, 9, 2, 3, 4, 7])
    node = automaton.match([1, 2, 3, 4])
    depths = []
    while node.fail is not None:
        depths.append(node.depth)
        node = node.fail
    assert depths == [4, 3, 2, 1]
    read(automaton, [8, 3, 4, 6])  # new patterns after the links were first used
    follow = {token for parent, token in automaton.continuations([1, 2, 3, 4]) if parent == 0}
    assert follow == {5, 7, 6}, "through the failure links: what followed 1234, 234 and 34"


def test_the_state_is_not_stale_after_a_miss_and_knows_the_prompt() -> None:
    drafter = Retrieval(5, 200)
    request = Request((1, 2, 3, 4, 5, 1, 2, 6, 6, 2, 3))  # the 6 6 was never seen before: a miss; then 2 3 again
    drafter.opened(request)
    builder = TreeBuilder(3, 8)
    drafter.grow(request, builder)
    assert builder.tokens[:3] == [3, 4, 5], "the prompt's own 2 3 is followed by 4 5"


def test_patterns_shorter_than_a_full_window_are_stored() -> None:
    drafter = Retrieval(10, 200)
    drafter.opened(Request((1, 2, 3)))  # far from ten tokens
    builder = TreeBuilder(2, 4)
    drafter.grow(Request((9, 1, 2)), builder)
    assert builder.tokens == [2, 3]


def test_tokens_never_seen_draft_nothing_not_token_zero() -> None:
    builder = TreeBuilder(5, 16)
    Logits(8).grow(Request((5,)), builder)
    assert builder.tokens == [5]


def test_a_node_that_both_propose_is_paid_for_once() -> None:
    trees = []
    for name, tokens in (("a", [1, 2, 3]), ("b", [1, 2, 4])):
        builder = TreeBuilder(0, 8)
        builder.add_chain(tokens)
        trees.append(stack([builder], name))
    both = trees[0].union(trees[1])
    assert int(both.count) == 5
    spent: list[int] = []

    class Watch:
        @hookimpl(wrapper=True)
        def racer_draft(self, view: StepView, budget: int) -> Any:
            tree = yield
            if tree is not None:
                paths = set()
                for node in range(int(tree.count[0])):
                    path = [int(tree.tokens[0, node])]
                    while node:
                        node = int(tree.parent[0, node])
                        path.append(int(tree.tokens[0, node]))
                    paths.add(tuple(path))
                assert len(paths) == int(tree.count[0]), "no path twice"
                spent.append(int(tree.count[0]))
            return tree

    decode(Decoder(MODEL, DecodeConfig(drafter=racer_paper(), budget=32, plugins=[Watch()])), [[1, 2, 3]], 150)
    assert max(spent) == 32, "what overlap saves is spent on more nodes"


def test_retrieval_goes_first_and_logits_fill_what_is_left() -> None:
    def fixed(name: str, *chains: list[int]) -> Any:
        def grow(self: Any, request: Request, tree: TreeBuilder) -> None:
            for chain in chains:
                tree.add_chain(chain)

        return type(
            "Fixed", (Retrieval,), {"name": name, "grow": grow, "observe": lambda *a: None, "opened": lambda *a: None}
        )()

    first, second = fixed("first", [1, 2, 3]), fixed("second", [1, 2, 4], [5])
    view: Any = type(
        "View", (), {"requests": (Request((0,)),), "active": (True,), "root": torch.tensor([0]), "vocab_size": VOCAB}
    )()
    tree = Merge(first, second).draft(view, 5)
    assert tree is not None
    assert tree.tokens.tolist() == [[0, 1, 2, 3, 4]]
    assert tree.parent.tolist() == [[-1, 0, 1, 2, 2]]
    assert [tree.sources[code] for code in tree.source[0, 1:].tolist()] == ["first"] * 3 + ["second"]


def test_the_mask_is_made_on_the_device_from_parents() -> None:
    """No nested lists: ancestors are a tensor derived from a tensor."""
    builder = TreeBuilder(0, 8)
    builder.add_chain([1, 2])
    tree = stack([builder], "x")
    assert tree.ancestors.device == tree.parent.device
    assert tree.ancestors.dtype == torch.bool


def test_text_is_not_decoded_anew_at_every_step() -> None:
    """The loop has no tokenizer at all."""
    import inspect

    import racer.engine.decoder

    assert "tokenizer" not in inspect.getsource(racer.engine.decoder)
