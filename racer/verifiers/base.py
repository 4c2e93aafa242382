"""What a verifier is, and the walk down the tree that all of them share."""

from __future__ import annotations

from collections.abc import Hashable

import torch
from torch import Tensor

from racer.step.draft_tree import DraftTree
from racer.step.request import StepView
from racer.step.verdict import Verdict


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

    def capture_key(self, view: StepView) -> Hashable | None:
        """What, beside shapes, the operations of :meth:`verify` depend on; None (the default) if they need the host.

        With a key, they may be captured together with the forward pass, and replayed whenever the key is the same: they
        must then read nothing that changes but ``tree``, ``logits`` and the tensors of ``view``, never synchronise, and
        keep nothing. A subclass that overrides :meth:`verify` must answer for itself.
        """
        return None


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
