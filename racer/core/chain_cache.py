"""transformers' own cache of one call, with a way back to the last commit.

Recurrent and convolutional states cannot be taken back token by token, but they can be copied. So the states of the
last commit are noted before tokens are scored that may turn out wrong, and put back if they do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
from torch import Tensor
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

CONCATENATES = (DynamicLayer, DynamicSlidingWindowLayer)
"""Layers that make new keys and values and write into none: what they held stays as it was."""
GROWING = ("keys", "values")


@attrs.define(eq=False)
class ChainCache:
    """The cache of a batch that is decoded by chains, and the model's arguments that go with it.

    The first :attr:`committed` slots hold the batch's texts, padding included.
    """

    padding: list[int]
    """Masked slots at the left of each row."""
    arguments: dict[str, Any]
    """Of the model, as transformers' loop keeps them: the cache, mask and positions of the committed slots."""
    cache_argument: str
    committed: int = 0
    _marked: list[tuple[Any, dict[str, Any]]] = attrs.field(factory=list)

    @property
    def cache(self) -> Any:
        """transformers' cache; of a model with an encoder what changes of it, as the encoder's text does not."""
        held = self.arguments[self.cache_argument]
        return getattr(held, "self_attention_cache", held)

    @property
    def crops(self) -> bool:
        """Whether tokens can be taken back one by one: all of its layers hold keys and values of all slots."""
        return bool(self.cache.layers) and all(type(layer) is DynamicLayer for layer in self.cache.layers)

    def mark(self) -> None:
        """Note the states as they are."""
        self._marked = [(holder, _noted(holder)) for holder in (self.cache, *self.cache.layers)]

    def back(self) -> None:
        """Return to the states that were noted. They can be returned to once."""
        for holder, noted in self._marked:
            vars(holder).clear()
            vars(holder).update(noted)
        self._marked = []

    def crop(self, slots: int) -> None:
        """Keep the first ``slots`` slots, where :attr:`crops` says so."""
        for layer in self.cache.layers:
            if layer.keys is None:  # it stores nothing
                continue
            layer.keys, layer.values = layer.keys[:, :, :slots], layer.values[:, :, :slots]


def _noted(holder: Any) -> dict[str, Any]:
    """The attributes of a layer, or of a cache but for its layers: what may be written into is copied."""
    keeps = GROWING if type(holder) in CONCATENATES else ("layers",)
    return {name: value if name in keeps else _copy(value) for name, value in vars(holder).items()}


def _copy(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, Mapping):
        return type(value)((name, _copy(part)) for name, part in value.items())  # type: ignore[call-arg]
    if type(value) in (list, tuple):
        return type(value)(_copy(part) for part in value)
    return value
