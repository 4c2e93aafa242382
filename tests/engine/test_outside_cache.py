"""What a batch leaves in a cache of transformers'."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from racer.core.cache_layout import Block, CacheLayout
from racer.core.kv_cache import TreeCache
from racer.engine.outside_cache import final_states
from racer.step.request import Request, add_tokens, cut


def test_a_row_may_be_cut_after_it_has_left() -> None:
    block = Block(1, 2, torch.float32, torch.device("cpu"))
    layout = CacheLayout((block,), (block,))
    cache = TreeCache(layout, [0, 0], 700)
    for store in cache.stores:
        store.copy_(torch.rand(store.shape))
    cache.lengths = [3, 600]
    expected, left = cache.layer(0)[0][:, :, :3].clone(), {1: cache.row(1, 600)}
    cache.keep([0])
    requests = [Request(prompt=(1, 2)), Request(prompt=(1, 2))]
    add_tokens(requests[0], [3, 4])
    add_tokens(requests[1], range(599))
    cut(requests[1], 4)
    batch: Any = SimpleNamespace(
        spec=SimpleNamespace(requests=requests, padding=[0, 0]),
        cache=cache,
        rows=(0,),
        left=left,
        runner=SimpleNamespace(open=lambda padding, capacity: TreeCache(layout, padding, capacity)),
        last_position=99,
        slots=lambda request: len(request.tokens),
    )
    states = final_states(batch)
    assert states.complete
    assert torch.equal(states.cache.layer(0)[0][:, :, :3], expected)
