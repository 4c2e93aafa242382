"""Attention over a tree where several query heads share one head of keys and values.

It also stands in for implementations that take no mask of a tree: flash attention, flex attention.

transformers' ``sdpa`` copies keys and values once for every query head when there is a mask and more than one query.
Here the queries of a group become rows of one head instead: nothing is copied, and each key is read once. What that
is worth, ``benchmarks/forward_ways.py`` measures.
"""

from __future__ import annotations

import inspect
import re
import sys
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from racer.core.few_queries import attended_by_few
from racer.core.model_state import state_of
from racer.core.twin import Configs, Twin, TwinClasses, share

GROUPED, PLAIN, EAGER = "racer_grouped", "sdpa", "eager"
"""Names of attention implementations: ours, and those that take the mask of a tree themselves."""
NOT_OURS = ("softcap", "s_aux", "sinks")
"""What some models ask of their attention, and sdpa has not: in 16 bits its lack may look like rounding."""
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
    :raises ValueError: scores are to be capped, or there are sinks, which only other implementations know.
    """
    if unknown := [name for name in NOT_OURS if rest.get(name) is not None]:
        raise ValueError(f"'sdpa' knows no {unknown[0]}")
    batch, heads, nodes, _ = query.shape
    groups = heads // key.shape[1]
    if attention_mask is not None and not dropout and rest.get("position_bias") is None:
        attended = attended_by_few(query, key, value, attention_mask, scaling)
        if attended is not None:
            return attended, None
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


def reads_names(model: Any) -> bool:
    """Whether the code of a model, or of a part of it, asks for the name of its attention implementation.

    It might then do something else under our name.
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


class GroupedConfig(Twin):
    """The twin of a configuration, which names :func:`grouped` where its original names anything but ``eager``."""

    __slots__ = ()

    @property
    def _attn_implementation(self) -> Any:
        name = super()._attn_implementation  # type: ignore[misc]  # the original's class has it
        return name if name is None or name == EAGER else GROUPED


def grouped_configs(model: Any) -> Configs | None:
    """What a twin's modules see in the place of the text configuration, so that they attend with :func:`grouped`.

    :return: None if the configuration is of a class that no other can be derived from.
    """
    config = model.config.get_text_config()
    try:
        kind = state_of(model).part(TwinClasses).of(GroupedConfig, type(config))
        return Configs(config, share(config, object.__new__(kind)))
    except TypeError:
        return None
