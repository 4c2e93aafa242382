"""A batch of draft trees: tokens and parents. Everything else is derived, on the device of the tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

FAULTS = {
    1: "its root is not the pending token",
    2: "a node's parent does not come before it (a cycle, or parent >= child)",
    4: "a token id lies outside the vocabulary",
    8: "a score is NaN",
    16: "its node count is not between 1 and the number of columns",
    32: "a node's source is not an index into sources",
}
"""What each bit of :meth:`DraftTree.faults` means."""
UNNAMED = ("",)


@attrs.frozen(eq=False)
class DraftTree:
    """``B`` trees of up to ``N`` nodes each; node 0 is the root, the token that is chosen but not yet scored.

    A child always stands behind its parent, so the first ``n`` columns are a tree again. Columns at or beyond
    ``count`` are padding. Siblings should carry distinct tokens (equal ones waste nodes, they never change output).
    """

    tokens: Tensor
    """``[B, N]`` int64: token ids."""
    parent: Tensor
    """``[B, N]`` int64: column of each node's parent; -1 (or 0) at the root."""
    count: Tensor
    """``[B]`` int64: nodes in use, the root included."""
    score: Tensor | None = None
    """``[B, N]`` float: estimated probability that the node is accepted (the product along its path)."""
    source: Tensor | None = None
    """``[B, N]`` int64: who proposed the node, an index into ``sources``."""
    sources: tuple[str, ...] = ()

    @classmethod
    def root(cls, tokens: Tensor) -> DraftTree:
        """One-node trees from the pending tokens ``[B]``: plain decoding."""
        return cls.chain(tokens[:, None], torch.ones_like(tokens))

    @classmethod
    def chain(cls, tokens: Tensor, count: Tensor) -> DraftTree:
        """Each node the child of the one before it; ``tokens [B, N]``, of which the first ``count [B]`` are real."""
        parent = torch.arange(-1, tokens.shape[1] - 1, device=tokens.device).expand_as(tokens)
        return cls(tokens, torch.where(cls._real(tokens, count), parent, 0), count)

    @staticmethod
    def _real(columns: Tensor, count: Tensor) -> Tensor:
        return torch.arange(columns.shape[1], device=columns.device) < count[:, None]

    @property
    def batch(self) -> int:
        return self.tokens.shape[0]

    @property
    def width(self) -> int:
        """Number of columns ``N``: what the forward pass pays for."""
        return self.tokens.shape[1]

    @property
    def kinds(self) -> int:
        """How many different values ``source`` may have."""
        return max(len(self.sources), 1 if self.source is None else 0)

    @cached_property
    def real(self) -> Tensor:
        """``[B, N]`` bool: the columns that are nodes, not padding."""
        return self._real(self.tokens, self.count)

    @cached_property
    def ancestors(self) -> Tensor:
        """``[B, N, N]`` bool: ``[b, i, j]`` says that j is i or an ancestor of i. In log2(N) gathers."""
        seen = torch.eye(self.width, dtype=torch.bool, device=self.tokens.device).expand(self.batch, -1, -1)
        jump = self._up
        for _ in range((self.width - 1).bit_length()):  # pointer doubling: jump is the 2^k-th ancestor
            seen = seen | _rows(seen, jump)
            jump = jump.gather(1, jump)
        return seen

    @property
    def _up(self) -> Tensor:
        """``[B, N]`` the parent's column, for the root and padding 0: safe to gather by."""
        return torch.where(self.real, self.parent, 0).clamp(0, self.width - 1)

    @cached_property
    def depth(self) -> Tensor:
        """``[B, N]`` int64: the root has depth 0."""
        return self.ancestors.sum(-1) - 1

    def faults(self, root: Tensor, vocab_size: int, kinds: Tensor | None = None) -> Tensor:
        """``[B]`` int64 bit set over :data:`FAULTS`; 0 for a well-formed tree. Device code, no synchronisation.

        :param kinds: ``[B]`` how many sources there are, where ``sources`` does not say.
        """
        nan = None if self.score is None else self.score.isnan()
        sources = self.kinds if kinds is None else kinds[:, None]
        parts: list[Any] = [self.tokens, self.parent, self.count, nan, self.source, root]
        if kinds is not None or any(part is not None and part.device.type != "cpu" for part in parts):
            columns = torch.arange(self.width, device=self.tokens.device)
            bits: Tensor = _faults(parts, columns, vocab_size, sources)
            return bits
        arrays = [None if part is None else part.numpy() for part in parts]  # numpy takes half the time for so little
        return torch.from_numpy(_faults(arrays, np.arange(self.width), vocab_size, sources))

    def sound(self, faults: Tensor, root: Tensor, *, look: bool = True) -> DraftTree:
        """The same trees with every faulty row (``faults [B]`` non-zero) cut back to its root.

        :param look: whether the host may look first if there is anything to do, where the trees are on the host.
        """
        if look and faults.device.type == "cpu" and not faults.any() and bool((self.count == self.width).all()):
            return self  # nothing to cut, and no padding to blank
        good = (faults == 0)[:, None] & self.real
        tokens = torch.where(good, self.tokens, 0)
        tokens[:, 0] = root
        count = torch.where(faults == 0, self.count, 1)
        score, source = (None if part is None else torch.where(good, part, 0) for part in (self.score, self.source))
        return DraftTree(tokens, torch.where(good, self.parent, 0), count, score, source, self.sources)

    def head(self, width: int) -> DraftTree:
        """The first ``width`` columns."""
        if width >= self.width:
            return self
        return self._each(lambda part: part[:, :width], count=self.count.clamp(max=width))

    def prune(self, min_score: float) -> DraftTree:
        """Drop the nodes scored below ``min_score``, with all that hangs on them; the root stays.

        Columns close up. On the CPU the width shrinks with them; on an accelerator it stays, because reading the
        widest row would cost a synchronisation.

        :raises ValueError: the tree carries no scores.
        """
        if self.score is None:
            raise ValueError("prune needs a tree with scores; this drafter gives none")
        keep = (self.score >= min_score) & self.real
        keep[:, 0] = True
        keep &= ~(self.ancestors & ~keep[:, None, :]).any(-1)
        place = torch.where(keep, keep.cumsum(1) - 1, self.width)  # [B, N]; the dump column is cut off below
        renamed = attrs.evolve(self, parent=place.gather(1, self._up))
        pruned = renamed._each(lambda part: _spread(part, place, self.width), count=keep.sum(1))
        return pruned.head(int(pruned.count.max())) if pruned.count.device.type == "cpu" else pruned

    def union(self, other: DraftTree) -> DraftTree:
        """Both trees as one trie: our columns first, then the nodes that only ``other`` has. Shared nodes stay ours.

        ``other`` must have the same roots. The result is up to ``N + M - 1`` columns wide; exact, O(N M log N) work.
        """
        twin = self._twins(other)  # [B, N, M]
        known = twin.any(1)
        fresh = other.real & ~known
        place = torch.where(known, twin.long().argmax(1), self.count[:, None] + fresh.cumsum(1) - 1)
        width = self.width + other.width - 1
        target = torch.where(fresh, place, width)

        def join(ours: Tensor, theirs: Tensor) -> Tensor:
            return _spread(theirs, target, width, onto=ours)

        def join_if(ours: Tensor | None, theirs: Tensor | None) -> Tensor | None:
            return None if ours is None or theirs is None else join(ours, theirs)

        return DraftTree(
            tokens=join(torch.where(self.real, self.tokens, 0), other.tokens),
            parent=join(self.parent, place.gather(1, other._up)),
            count=self.count + fresh.sum(1),
            score=join_if(self.score, other.score),
            source=join(self._known_source, other._known_source + len(self.sources or UNNAMED)),
            sources=(self.sources or UNNAMED) + (other.sources or UNNAMED),
        )

    @property
    def _known_source(self) -> Tensor:
        """One without a name where nobody said."""
        return torch.zeros_like(self.tokens) if self.source is None else self.source

    def _twins(self, other: DraftTree) -> Tensor:
        """``[B, N, M]`` bool: our node i and their node j spell the same path. Pointer doubling over pairs of nodes."""
        same = self.tokens[:, :, None] == other.tokens[:, None, :]
        same &= self.real[:, :, None] & other.real[:, None, :]
        same[:, 0, :], same[:, :, 0] = False, False
        same[:, 0, 0] = True
        up, down = self._up, other._up
        for _ in range((max(self.width, other.width) - 1).bit_length()):
            above = _rows(_rows(same, up).transpose(1, 2), down).transpose(1, 2)
            same = same & above
            up, down = up.gather(1, up), down.gather(1, down)
        return same

    def to(self, device: torch.device) -> DraftTree:
        """On ``device``, by one copy of all integers (and one of the scores, if there are any)."""
        if self.tokens.device == device:
            return self
        parts = [part for part in (self.tokens, self.parent, self.source) if part is not None]
        packed = torch.cat([*parts, self.count[:, None]], dim=1).to(device, non_blocking=True)
        tokens, parent, *source = torch.split(packed[:, :-1], self.width, dim=1)
        score = None if self.score is None else self.score.to(device, non_blocking=True)
        return DraftTree(tokens, parent, packed[:, -1], score, source[0] if source else None, self.sources)

    def padded(self, width: int) -> DraftTree:
        """The same trees in at least ``width`` columns."""
        more = max(0, width - self.width)
        return self._each(lambda part: pad(part, (0, more)), self.count)

    def of_rows(self, rows: Sequence[int]) -> DraftTree:
        """The trees of these rows alone, in as many columns."""
        index = list(rows)
        return self._each(lambda part: part[index], self.count[index])

    def copy(self) -> DraftTree:
        """The same trees in memory of their own."""
        return self._each(Tensor.clone, self.count.clone())

    def _each(self, change: Callable[[Tensor], Tensor], count: Tensor) -> DraftTree:
        """With ``change`` made to every ``[B, N]`` tensor."""
        score, source = (None if part is None else change(part) for part in (self.score, self.source))
        return DraftTree(change(self.tokens), change(self.parent), count, score, source, self.sources)


def _faults(parts: Sequence[Any], columns: Any, vocab_size: int, sources: Any) -> Any:
    """:meth:`DraftTree.faults`, of arrays or of tensors: only what both of them do alike."""
    tokens, parent, count, nan, source, root = parts
    real = columns < count[:, None]
    late = (parent >= columns) | (parent < 0)
    late[:, 0] = False
    faults = (tokens[:, 0] != root) * 1
    faults = faults + (late & real).any(1) * 2
    faults = faults + (((tokens < 0) | (tokens >= vocab_size)) & real).any(1) * 4
    if nan is not None:
        faults = faults + (nan & real).any(1) * 8
    faults = faults + ((count < 1) | (count > len(columns))) * 16
    if source is not None:
        faults = faults + (((source < 0) | (source >= sources)) & real).any(1) * 32
    return faults


def _rows(square: Tensor, index: Tensor) -> Tensor:
    """``square[b, index[b, i], :]`` for ``square [B, N, M]`` and ``index [B, K]``."""
    return square.gather(1, index[:, :, None].expand(-1, -1, square.shape[2]))


def _spread(part: Tensor, place: Tensor, width: int, onto: Tensor | None = None) -> Tensor:
    """Columns of ``part [B, M]`` moved to ``place [B, M]`` in a ``[B, width]`` tensor that starts as ``onto`` or zeros.

    ``place == width`` drops a column.
    """
    board = part.new_zeros(part.shape[0], width + 1)
    if onto is not None:
        board[:, : onto.shape[1]] = onto
    return board.scatter(1, place, part)[:, :width]
