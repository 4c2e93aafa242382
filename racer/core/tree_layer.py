"""One layer's keys and values in a :class:`racer.core.kv_cache.TreeCache`."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, cast

import attrs
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

from racer.core.layer_program import END, NODES, Depends, Slots
from racer.core.recording import Recorder, recorder
from racer.kernels.native.small import storing

if TYPE_CHECKING:
    from racer.core.kv_cache import TreeCache


class TreeLayer(CacheLayerMixin):  # type: ignore[misc]  # transformers is untyped here
    """One layer's window on the shared storage, in the shape that transformers asks for."""

    is_sliding = False  # all tokens are kept; the window is in the mask
    is_croppable = False
    is_compileable = False

    def __init__(self, cache: TreeCache, index: int) -> None:
        super().__init__()
        # weak, as the cache holds its layers: storage must go with the call, not with the next garbage collection
        self.cache = cast("TreeCache", weakref.proxy(cache))
        self.index = index
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Storage is there from the start."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        start, count = self.cache.end, key_states.shape[2]
        keys, values = self.cache.layer(self.index)
        if (writer := recorder()) is not None:
            for which, slots, states in ((False, keys, key_states), (True, values, value_states)):
                _store(writer, Slots(self.index, values=which), slots, states, start)
        else:
            keys.narrow(2, start, count).copy_(key_states)  # an index in brackets takes twice as long
            values.narrow(2, start, count).copy_(value_states)
        return keys.narrow(2, 0, start + count), values.narrow(2, 0, start + count)

    def update_indexer(self, key_states: Tensor) -> Tensor:
        start, count = self.cache.end, key_states.shape[1]
        keys = self.cache.index_keys(self.index)
        keys[:, start : start + count] = key_states
        return keys[:, : start + count]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.cache.end + query_length, 0

    def get_seq_length(self) -> int:
        return self.cache.end

    def get_max_length(self) -> int:
        return -1

    get_max_cache_shape = get_max_length  # its name before transformers 5.18


def _store(writer: Recorder, name: Slots, slots: Tensor, states: Tensor, start: int) -> None:
    """Copy a row's ``states [1, heads, N, size]`` to ``slots [1, heads, capacity, size]``, and write that down.

    :param name: of the slots.
    """
    _, heads, nodes, size = states.shape
    bytes_ = states.element_size()
    by_head, by_node = states.stride(1) * bytes_, states.stride(2) * bytes_
    if (
        states.dtype != slots.dtype
        or (size * bytes_) % 16
        or states.stride(3) != 1
        or len(slots) != 1
        or (nodes > 1 and by_node < by_head)
    ):
        writer.fail("keys or values of another kind")
        slots.narrow(2, start, nodes).copy_(states)
        return
    to_head, to_node = slots.stride(1) * bytes_, slots.stride(2) * bytes_
    writer.cached(slots, name)
    store, begin = storing(), slots.data_ptr() + start * to_node
    store(states.data_ptr(), begin, heads, nodes, size * bytes_, by_head, by_node, to_head, to_node)
    to, next_head = Depends(END, to_node, name), attrs.evolve(name, by_head=True)
    writer.note(store, states, to, heads, Depends(NODES), size * bytes_, by_head, by_node, next_head, to_node)
