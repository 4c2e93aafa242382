"""Rotary embeddings that rotate by the longest position of a forward pass: up to where they all rotate alike."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs

LENGTH_DEPENDENT = ("dynamic", "longrope")
"""Beyond their border a tree, or a piece of prompt, would change the angles."""
SHORTEST = 16
"""Positions that every trial needs."""


@attrs.frozen
class RopeBorder:
    """Where a model's rotary embedding begins to depend on the length of the text."""

    kind: str
    """Of :data:`LENGTH_DEPENDENT`."""
    length: int
    """Up to so many positions a pass may have: at most what is to be found in the configuration, whose versions of
    transformers read different numbers of it. What an earlier, longer call left behind is undone by a shorter pass."""

    @classmethod
    def of(cls, config: Any) -> RopeBorder | None:
        """From a text configuration; None if its embedding does not depend on the length."""
        parts = list(_parts(config))
        for kind in LENGTH_DEPENDENT:
            if any(part.get("rope_type", part.get("type")) == kind for part in parts):
                name = "original_max_position_embeddings"
                found = [part.get(name) for part in (*parts, vars(config))]
                found.append(getattr(config, "max_position_embeddings", None))
                return cls(kind, min((number for number in found if isinstance(number, int)), default=0))
        return None

    def fault(self, reach: int) -> str:
        """Why a call that takes ``reach`` slots cannot be decoded with trees; empty if it can."""
        if max(reach, SHORTEST) <= self.length:
            return ""
        return (
            f"its {self.kind!r} rotary embedding depends on the length of the sequence: only a call that takes at most "
            f"{self.length} tokens, new ones included, is the same with trees"
        )


def _parts(config: Any) -> Iterator[dict[str, Any]]:
    """Settings of rotary embeddings, which a configuration may nest by layer type."""
    for name in ("rope_parameters", "rope_scaling"):
        given = getattr(config, name, None)
        if isinstance(given, dict):
            yield given
            yield from (part for part in given.values() if isinstance(part, dict))
