"""Keys and values of requests that have ended, for later ones that begin alike: a chat's next turn, say."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import attrs
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

LEAST = 16
"""Tokens that two texts must have in common for it to be worth a copy."""


@attrs.frozen(eq=False)
class _Kept:
    tenant: Hashable
    tokens: NDArray[np.int64]
    states: list[Tensor]
    """See :meth:`racer.core.kv_cache.TreeCache.row`."""


class PrefixCache:
    """The latest texts and their states, up to so many tokens; the least recently used ones make room.

    :param most: tokens of all of them.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: list[_Kept] = []
        """The most recently used one last."""

    @property
    def tokens(self) -> int:
        """Tokens of all texts."""
        return sum(len(kept.tokens) for kept in self._kept)

    def find(self, tenant: Hashable, prompt: Sequence[int]) -> tuple[int, list[Tensor]]:
        """How many of a prompt's first tokens are known, and their states. Its last token never is: something must be
        scored to know what comes next."""
        ids = np.array(prompt[:-1], np.int64)
        own = [kept for kept in self._kept if kept.tenant == tenant]
        best = max(own, key=lambda kept: _common(kept.tokens, ids), default=None)
        common = 0 if best is None else _common(best.tokens, ids)
        if best is None or common < LEAST:
            return 0, []
        self._kept.remove(best)
        self._kept.append(best)
        return common, [part[:, :, :common] for part in best.states]

    def takes(self, length: int) -> bool:
        """Whether a text of so many tokens is kept at all."""
        return LEAST <= length <= self._most

    def keep(self, tenant: Hashable, tokens: Sequence[int], states: Callable[[], list[Tensor]]) -> None:
        """Keep a text that it takes. Those that it goes on from are contained in it, and go.

        :param states: makes the copy, once there is room for it.
        """
        ids = np.array(tokens, np.int64)
        self._kept = [
            kept for kept in self._kept if kept.tenant != tenant or _common(kept.tokens, ids) < len(kept.tokens)
        ]
        while self.tokens + len(ids) > self._most:
            self._kept.pop(0)
        self._kept.append(_Kept(tenant, ids, states()))

    def clear(self) -> None:
        """Forget all."""
        self._kept = []


def _common(one: NDArray[np.int64], other: NDArray[np.int64]) -> int:
    """How many first tokens two texts have in common."""
    length = min(len(one), len(other))
    differ = np.flatnonzero(one[:length] != other[:length])
    return int(differ[0]) if len(differ) else length
