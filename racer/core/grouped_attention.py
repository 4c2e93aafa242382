"""Attention over a tree where several query heads share one head of keys and values.

transformers' ``sdpa`` copies keys and values once for every query head when there is a mask and more than one query.
Here the queries of a group become rows of one head instead: nothing is copied, and each key is read once. What that
is worth, ``benchmarks/forward_ways.py`` measures.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

GROUPED, PLAIN = "racer_grouped", "sdpa"
"""Names of attention implementations: ours, and the one that it stands in for."""
_ASKS = re.compile(r"_attn_implementation\"?\)?\s*(==|!=|in\b|not in\b)")  # also after getattr(config, "...")


def grouped(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **rest: Any,
) -> tuple[Tensor, None]:
    """What ``sdpa`` gives, up to rounding: ``[B, N, H, D]``.

    :param query: ``[B, H, N, D]``
    :param key, value: ``[B, H / groups, K, D]``
    :param attention_mask: ``[B, 1, N, K]``, additive or bool. Anything else is left to transformers.
    """
    batch, heads, nodes, _ = query.shape
    groups = heads // key.shape[1]
    plain = attention_mask is None or attention_mask.shape[1] != 1 or rest.get("position_bias") is not None
    if plain or groups == 1 or dropout:
        output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **rest)
        return output, None
    assert attention_mask is not None
    rows = query.reshape(batch, heads // groups, groups * nodes, -1)
    mask = attention_mask  # of a single query it is right for each of its heads as it is
    if nodes > 1:
        mask = mask.expand(-1, groups, -1, -1).reshape(len(mask), 1, groups * nodes, -1)
    output = F.scaled_dot_product_attention(rows, key, value, attn_mask=mask, scale=scaling)
    return output.reshape(batch, heads, nodes, -1).transpose(1, 2).contiguous(), None


AttentionInterface.register(GROUPED, grouped)
AttentionMaskInterface.register(GROUPED, sdpa_mask)


def implementation(config: Any) -> str | None:
    """The attention implementation that the user chose, whoever may be using :func:`grouped_attention` just now."""
    name: str | None = config._attn_implementation
    return PLAIN if name == GROUPED else name


def reads_names(model: Any) -> bool:
    """Whether the code of a model, or of a part of it, asks for the name of its attention implementation.

    It might then do something else under our name, in a tree's forward pass or in another thread's.
    """
    for name in {type(part).__module__ for part in model.modules()}:
        if name.startswith("torch."):
            continue
        try:
            source = inspect.getsource(sys.modules[name])
        except (KeyError, OSError, TypeError):
            return True  # who knows
        if _ASKS.search(source):
            return True
    return False


@contextmanager
def grouped_attention(config: Any) -> Iterator[None]:
    """Inside, a model with this text configuration attends with :func:`grouped`, if it does with ``sdpa`` outside.

    Other threads that run the model meanwhile get the same results, so nothing is locked.
    """
    if implementation(config) != PLAIN:
        yield
        return
    config._attn_implementation = GROUPED
    try:
        yield
    finally:
        config._attn_implementation = PLAIN
