"""What a verifier is, and the walk down the tree that all of them share."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor

from racer.errors import PluginError
from racer.step.draft_tree import DraftTree
from racer.step.verdict import Verdict
from racer.step.view import StepView


class Verifier:
    """Decides which nodes are accepted, and the token that follows them."""

    exact: bool = True
    """Whether output equals plain decoding."""
    samples: bool | None = None
    """True: only for sampling; False: only for greedy decoding; None: for both."""

    def verify(self, view: StepView, tree: DraftTree, logits: Tensor) -> Verdict:
        """Judge ``tree`` by its ``logits [B, N, V]``.

        On the device, without host synchronisation, unless a processor must read prefixes on the host.
        """
        raise NotImplementedError

    def needs_only_argmax(self, view: StepView) -> bool:
        """Whether the argmax of each node's logits decides all: who knows it may ask :meth:`verify_targets` instead."""
        return False

    def verify_targets(self, tree: DraftTree, targets: Tensor) -> Verdict:
        """The verdict where the right token after each node is known: ``targets [B, N]``."""
        raise NotImplementedError

    def capture_key(self, view: StepView) -> Hashable | None:
        """What, beside shapes, the operations of :meth:`verify` depend on; None (the default) if they need the host.

        With a key, they may be captured together with the forward pass, and replayed whenever the key is the same: they
        must then read nothing that changes but ``tree``, ``logits`` and the tensors of ``view``, never synchronise, and
        keep nothing. A subclass that overrides :meth:`verify` must answer for itself.
        """
        return None


class _DuckVerifier(Verifier):
    """An object that has ``verify``, and perhaps ``exact``, ``samples`` and ``capture_key``, as a verifier."""

    def __init__(self, duck: Any) -> None:
        if isinstance(duck, type) or not callable(getattr(duck, "verify", None)):
            raise PluginError(f"a verifier is an object with verify; {type(duck).__name__} has none")
        self._duck = duck
        self.exact = getattr(duck, "exact", True)
        self.samples = getattr(duck, "samples", None)

    def verify(self, view: StepView, tree: DraftTree, logits: Tensor) -> Verdict:
        verdict: Verdict = self._duck.verify(view, tree, logits)
        return verdict

    def capture_key(self, view: StepView) -> Hashable | None:
        ask = getattr(self._duck, "capture_key", super().capture_key)
        key: Hashable | None = ask(view)
        return key


def as_verifier(verifier: Any) -> Verifier:
    """``verifier`` itself, or one that asks it, where it is of no subclass of :class:`Verifier`.

    :raises PluginError: it has no ``verify``.
    """
    return verifier if isinstance(verifier, Verifier) else _DuckVerifier(verifier)


def longest_path(tree: DraftTree, accept: Tensor) -> tuple[Tensor, Tensor]:
    """The deepest node whose whole path is in ``accept [B, N]``: its path ``[B, N]`` and the path's length ``[B]``.

    The root is always accepted. Among equally deep nodes the first wins (for exact verifiers there is only one, as
    siblings carry distinct tokens).
    """
    accept = accept & tree.real
    accept[:, 0] = True
    alive = ~(tree.ancestors & ~accept[:, None, :]).any(-1)
    deepest = torch.where(alive, tree.depth, -1).argmax(1)
    on_path = tree.ancestors[torch.arange(tree.batch, device=deepest.device), deepest]
    columns = torch.arange(tree.width, device=deepest.device).expand(tree.batch, -1)
    place = torch.where(on_path, tree.depth, tree.width)
    path = columns.new_zeros(tree.batch, tree.width + 1).scatter(1, place, columns)[:, :-1]
    return path, on_path.sum(1)


def last_of(path: Tensor, length: Tensor) -> Tensor:
    """``[B]`` the column of the last accepted node."""
    return path.gather(1, length[:, None] - 1)[:, 0]
