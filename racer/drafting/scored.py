"""What an engine has scored, as drafters learn from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import attrs
import numpy as np
import torch
from numpy.typing import NDArray

from racer.drafting.told import Told
from racer.step.draft_tree import DraftTree
from racer.step.verdict import Verdict

Text = TypeVar("Text")


@attrs.frozen(eq=False)
class Scored(Generic[Text]):
    """A text, what of it was scored, and what came."""

    text: Text
    emitted: list[int]
    tokens: NDArray[np.int64]
    """``[N]`` the root first."""
    parents: NDArray[np.int64]
    """``[N]``"""
    path: list[int]
    """Of ``tokens``, those that are text now, the root first."""
    next_token: int
    """The one after them."""
    top_ids: NDArray[np.int64]
    """``[N, k]``; -1 where nothing is known."""
    top_probs: NDArray[np.float32]
    """``[N, k]``"""


def scored_of(told: Told, text: Text, root: int, emitted: list[int], listed: int, vocab_size: int) -> Scored[Text]:
    """
    :param root: the text's last token before anything was emitted.
    :param listed: best tokens of each place that are kept.
    :raises ValueError: what was told does not fit together.
    """
    tokens, parents = _tree(told, root, vocab_size)
    path = _path(tokens, parents, emitted)
    shown = told.top_ids is not None and told.tokens is not None
    if told.top_ids is not None and not shown:
        raise ValueError("top_ids without tokens: of which places are they?")
    if len(path) < len(emitted):  # more than what was scored: the rest is text like any other
        if not shown or told.tokens is None:
            tokens = np.array([root, *emitted[:-1]], np.int64)
            parents = np.arange(-1, len(tokens) - 1)
            path = list(range(len(tokens)))
        else:
            raise ValueError(
                f"{len(emitted)} tokens were emitted, and {len(path)} scored ones lead there: one comes after each"
            )
    ids, probs = _best(told, len(tokens), listed) if shown else _unknown(len(tokens), listed)
    return Scored(text, emitted, tokens, parents, path, emitted[-1] if emitted else root, ids, probs)


def _tree(told: Told, root: int, vocab_size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    if told.tokens is None:
        if told.parents is not None:
            raise ValueError("parents without tokens")
        return np.array([root], np.int64), np.array([-1], np.int64)
    tokens = np.asarray(told.tokens, np.int64)
    if tokens.ndim != 1 or not len(tokens) or tokens[0] != root:
        raise ValueError(f"tokens must be [N] and begin with {root}, the text's last token of before, not {tokens!r}")
    if tokens.min() < 0 or tokens.max() >= vocab_size:
        raise ValueError(f"a scored token is none of the vocabulary's {vocab_size}")
    places = np.arange(len(tokens))
    parents = places - 1 if told.parents is None else np.asarray(told.parents, np.int64)
    if parents.shape != tokens.shape or ((parents[1:] >= places[1:]) | (parents[1:] < 0)).any():
        raise ValueError(f"parents must be [{len(tokens)}], each of them before its child, not {parents!r}")
    return tokens, parents


def _path(tokens: NDArray[np.int64], parents: NDArray[np.int64], emitted: list[int]) -> list[int]:
    """The scored tokens that were emitted, the root before them; the last emitted one came after a scored one."""
    path = [0]
    for token in emitted[:-1]:
        near = np.flatnonzero((parents == path[-1]) & (tokens == token))
        near = near[near > 0]
        if not len(near):
            break
        path.append(int(near[0]))
    return path


def _best(told: Told, size: int, listed: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    ids: Any = np.asarray(told.top_ids, np.int64)
    probs: Any = np.zeros(ids.shape, np.float32) if told.top_probs is None else np.asarray(told.top_probs, np.float32)
    if ids.ndim != 2 or len(ids) != size or probs.shape != ids.shape:
        raise ValueError(f"top_ids and top_probs must be [{size}, k], not {ids.shape} and {probs.shape}")
    kept, chances = _unknown(size, listed)
    few = min(listed, ids.shape[1])
    kept[:, :few], chances[:, :few] = ids[:, :few], probs[:, :few]
    return kept, chances


def _unknown(size: int, listed: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    return np.full((size, listed), -1, np.int64), np.zeros((size, listed), np.float32)


def together(scored: Sequence[Scored[Any]]) -> tuple[DraftTree, Verdict]:
    """All texts' trees, and what was accepted of them."""
    batch, width = len(scored), max(len(one.tokens) for one in scored)
    tokens, parent, path = (np.zeros((batch, width), np.int64) for _ in range(3))
    listed = scored[0].top_ids.shape[1]
    top_ids, top_probs = np.full((batch, width, listed), -1, np.int64), np.zeros((batch, width, listed), np.float32)
    for row, one in enumerate(scored):
        size = len(one.tokens)
        tokens[row, :size], parent[row, :size], path[row, : len(one.path)] = one.tokens, one.parents, one.path
        top_ids[row, :size], top_probs[row, :size] = one.top_ids, one.top_probs
    tree = DraftTree(
        torch.from_numpy(tokens), torch.from_numpy(parent), torch.tensor([len(one.tokens) for one in scored])
    )
    verdict = Verdict(
        path=torch.from_numpy(path),
        length=torch.tensor([len(one.path) for one in scored]),
        next_token=torch.tensor([one.next_token for one in scored]),
        top_ids=torch.from_numpy(top_ids),
        top_probs=torch.from_numpy(top_probs),
    )
    verdict.to_host(tree, torch.zeros(batch, dtype=torch.int64))
    return tree, verdict
