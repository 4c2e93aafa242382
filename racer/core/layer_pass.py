"""One pass of one layer, as far as a recording of it can take it."""

from __future__ import annotations

from typing import Any

import attrs
import torch
from torch import Tensor

from racer.core.kv_cache import TreeCache
from racer.core.layer_program import MOST
from racer.core.recording import recorder

CACHES = ("cache", "past_key_values")


def may_be_recorded() -> bool:
    """Whether passes are recorded, and run from recordings, as this thread is set now."""
    return not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu") and recorder() is None


@attrs.frozen(eq=False)
class LayerPass:
    """What a layer is given, as far as a recording of it can take it."""

    cache: TreeCache
    nodes: int
    slots: int
    inputs: list[Tensor]
    kind: tuple[Any, ...]
    """All else."""

    def is_now(self, hidden: Tensor) -> bool:
        """Whether it is still the same pass, of which ``hidden`` is a part."""
        return (
            self.slots == self.cache.end + self.nodes
            and hidden.is_contiguous()
            and hidden.dtype is self.inputs[0].dtype
            and may_be_recorded()
        )


def pass_of(arguments: tuple[Any, ...], named: dict[str, Any]) -> LayerPass | None:
    """A layer's arguments, if a recording can take them."""
    cache: Any = None
    tensors: list[Tensor] = []
    rest: list[Any] = []
    for name, part in (*enumerate(arguments), *named.items()):
        if name in CACHES and cache is None and part is not None:
            cache = part
        elif isinstance(part, Tensor):
            tensors.append(part)
            rest.append((name, part.dtype, part.dim()))
        elif isinstance(part, tuple) and part and all(isinstance(one, Tensor) for one in part):
            tensors += part
            rest.append((name, len(part), part[0].dtype))
        elif part is None or isinstance(part, (bool, int, float, str)):
            rest.append((name, part))
        else:
            return None
    if type(cache) is not TreeCache or len(cache.padding) != 1 or not tensors or len(tensors) > 12:
        return None
    if not may_be_recorded():
        return None
    hidden = tensors[0]
    nodes = hidden.shape[1] if hidden.dim() == 3 and hidden.shape[0] == 1 else 0
    if not 0 < nodes <= MOST:
        return None
    slots = cache.end + nodes
    for part in tensors:
        shape = part.shape
        fits = part.is_contiguous() and (
            shape[:2] == (1, nodes) or (part.dim() == 4 and shape == (1, 1, nodes, slots)) or part.dtype == torch.long
        )
        if not fits:
            return None
    places = [part.data_ptr() for part in tensors]
    alike = tuple(places.index(place) for place in places)  # a recording takes those for one that lie in one place
    kind = (nodes == 1, alike, torch.get_num_threads(), *rest)
    return LayerPass(cache, nodes, slots, tensors, kind)
