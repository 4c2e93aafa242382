"""The drafter ``racer`` in real decoding: its output is that of plain decoding, its state is constant in size."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from racer import DecodeConfig, Decoder, hookimpl
from racer.errors import ConfigError
from racer.guard import PluginWarning
from racer.step.draft_tree import DraftTree
from racer.step.view import StepView
from racer.strategies.context import Racer
from racer.strategies.context.estimator import VECTOR_SIZE, Estimator
from racer.strategies.context.features import CELLS
from racer.strategies.context.fitted import fitted_estimator, unfitted_estimator
from racer.strategies.context.growth import GrownTree
from racer.strategies.context.learning import _drafted_path, update_estimator
from racer.strategies.context.prefetch import CACHE_LINE
from racer.testing import check_drafter, decode, decode_plainly, toy_model

TINY = {"slots": 2, "history": 16}  # contexts collide all the time, and the past is overwritten at once


def tiny_racer() -> Racer:
    return Racer(**TINY)


def test_collisions_change_nothing() -> None:
    check_drafter(tiny_racer, max_examples=40)


def test_any_start_and_any_features_change_nothing() -> None:
    check_drafter(
        lambda: Racer(**TINY, estimator=unfitted_estimator(), silent=range(0, 13, 2), top_k=3), max_examples=15
    )


@pytest.mark.parametrize("top_k", [1, 4, 16])
def test_any_number_of_next_tokens_changes_nothing(top_k: int) -> None:
    check_drafter(lambda: Racer(**TINY, top_k=top_k), max_examples=15)


def memory_bytes(drafter: Racer) -> int:
    parts = [part._asdict() for part in drafter.memory[:4]]
    return sum(array.nbytes for part in parts for name, array in part.items() if name != "reals")


def test_memory_is_what_its_formula_says_and_stays_so() -> None:
    drafter = Racer(slots=64, history=128, top_k=8)
    tables = (4 * 64 + 3 * 32 + 1) * (8 + 8 * 8) + 16 * 128
    before = memory_bytes(drafter)
    assert 0 <= before - tables - 16 < 2**16  # the estimator
    decoder = Decoder(toy_model(50, 6.0), DecodeConfig(drafter=drafter, budget=16))
    for seed in range(5):
        decode(decoder, [[seed, 1, 2], [3, 4]], 60)
    assert memory_bytes(drafter) == before
    assert not drafter._open


def test_the_default_takes_at_most_64_mib() -> None:
    assert memory_bytes(Racer()) <= 64 * 2**20


def test_what_was_said_is_guessed_again_also_by_another_row() -> None:
    model = toy_model(200, 8.0)
    decoder = Decoder(model, DecodeConfig(drafter=Racer(), budget=32))
    decode(decoder, [[5, 6, 7]], 60)
    _, stats = decode(decoder, [[9], [5, 6, 7]], 60)
    assert np.mean(stats.accept_lengths[1]) > 8


class Prunes:
    """A plugin that takes the tree's second half away."""

    @hookimpl(wrapper=True)
    def racer_draft(self, view: StepView, budget: int) -> Any:
        tree = yield
        return tree.head(max(1, tree.width // 2)) if isinstance(tree, DraftTree) else tree


class Replaces:
    """A plugin that drafts something else."""

    @hookimpl(wrapper=True)
    def racer_draft(self, view: StepView, budget: int) -> Any:
        yield
        return DraftTree.chain(torch.stack([view.root, view.root], 1), torch.full_like(view.root, 2))


@pytest.mark.parametrize("plugin", [Prunes(), Replaces()])
def test_a_plugin_may_change_the_tree(plugin: object) -> None:
    model, prompts = toy_model(7), [[1, 2, 3], [4]]
    decoder = Decoder(model, DecodeConfig(drafter=Racer(**TINY), budget=12, plugins=(plugin,)))
    with warnings.catch_warnings():
        warnings.simplefilter("error", PluginWarning)
        got, _ = decode(decoder, prompts, 30)
    assert got == decode_plainly(model, prompts, 30)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda drafter: pickle.loads(pickle.dumps(drafter))])
def test_a_copy_goes_its_own_way(copied: Callable[[Racer], Racer]) -> None:
    model, drafter = toy_model(20, 6.0), Racer(slots=8, history=32)
    decode(Decoder(model, DecodeConfig(drafter=drafter, budget=12)), [[1, 2, 3]], 30)
    twin = copied(drafter)
    assert np.shares_memory(twin.memory.top_k.words, twin.memory.top_k.reals)
    assert not np.shares_memory(twin.memory.top_k.words, drafter.memory.top_k.words)
    for part in (drafter.memory, twin.memory):
        assert part.top_k.words.ctypes.data % CACHE_LINE == part.means.words.ctypes.data % CACHE_LINE == 0
    lengths = []
    for each in (drafter, twin):
        _, stats = decode(Decoder(model, DecodeConfig(drafter=each, budget=12)), [[1, 2, 3]], 30)
        lengths.append(stats.accept_lengths)
    assert lengths[0] == lengths[1]
    assert np.array_equal(twin.memory.means.reals, drafter.memory.means.reals, equal_nan=True)


def test_it_pickles_to_what_it_says_that_it_takes() -> None:
    slots, history, top_k = 2**16, 2**19, 15
    stated = 11 * slots // 2 * (8 + 8 * top_k) + 16 * history
    assert len(pickle.dumps(Racer())) < 1.03 * stated


def test_an_estimator_is_copied_whatever_its_order() -> None:
    strange = {name: np.asfortranarray(part) for name, part in fitted_estimator()._asdict().items()}
    drafter = Racer(**TINY, estimator=Estimator(**strange))
    assert all(part.flags.c_contiguous for part in drafter.memory.estimator)
    assert not np.shares_memory(drafter.memory.estimator.vectors, strange["vectors"])


@pytest.mark.parametrize(
    "wrong", [{"slots": 3}, {"slots": 0}, {"history": 8}, {"history": 100}, {"top_k": 0}, {"prompt": -1}]
)
def test_sizes_out_of_range_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Racer(**wrong)


def test_a_cut_tree_teaches_what_the_whole_one_does() -> None:
    rng, tree = np.random.default_rng(0), GrownTree.of(6)
    tree.tokens[:], tree.parent[:] = [9, 1, 2, 3, 4, 5], [-1, 0, 0, 0, 1, 1]
    tree.cells[:] = rng.integers(0, CELLS, tree.cells.shape)
    total = np.empty(VECTOR_SIZE, np.float32)

    def learned(scored: list[int], path: list[int], then: int) -> Estimator:
        estimator, columns, tokens = fitted_estimator(), np.empty(6, np.int32), np.array(scored)
        for place in range(_drafted_path(tree, 6, tokens, np.array(path), columns)):
            after = scored[path[place + 1]] if place + 1 < len(path) else then
            update_estimator(estimator, tree, 6, columns[place], after, total)
        return estimator

    whole = learned([9, 1, 2, 3, 4, 5], [0, 3], 7)
    assert not np.array_equal(whole.vectors, fitted_estimator().vectors)
    for cut in (learned([9, 1], [0], 3), learned([9, 3], [0, 1], 7), learned([9, 3, 8], [0, 1, 2], 7)):
        assert all(np.array_equal(one, other) for one, other in zip(whole, cut, strict=True))
    other = learned([7, 1], [0], 3)
    assert np.array_equal(other.vectors, fitted_estimator().vectors), "it was drafted behind another token"
