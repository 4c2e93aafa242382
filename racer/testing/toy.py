"""A language model whose logits are a hash of the exact token prefix: any slip in mask, position or cache shows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast


class ToyConfig(PreTrainedConfig):  # type: ignore[misc]  # transformers is untyped here
    """Vocabulary size, and how peaked the distributions are."""

    model_type = "racer_toy"

    def __init__(self, vocab_size: int = 7, sharpness: float = 2.0, **kwargs: Any) -> None:
        self.vocab_size = vocab_size
        self.sharpness = sharpness
        self.num_hidden_layers = self.num_attention_heads = self.hidden_size = 1
        super().__init__(**kwargs)


class ToyLM(PreTrainedModel, GenerationMixin):  # type: ignore[misc]  # transformers is untyped here
    """Keys carry token ids and values carry positions, so attention is the sum of a hash over what the mask shows.

    One layer, float64, no weights to speak of. It takes what real models take: no mask, a 2D one, an additive 4D one.
    """

    config_class = ToyConfig
    _supports_sdpa = True

    def __init__(self, config: ToyConfig) -> None:
        super().__init__(config)
        self.anchor = nn.Parameter(torch.zeros(1, dtype=torch.float64), requires_grad=False)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Any = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        **_: Any,
    ) -> CausalLMOutputWithPast:
        """Logits ``[B, N, V]`` for ``input_ids [B, N]``."""
        queries, cache = input_ids.shape[1], past_key_values if cache is None else cache
        before = cache.get_seq_length() if cache is not None else 0
        if position_ids is None:
            position_ids = (torch.arange(queries, device=input_ids.device) + before).expand_as(input_ids)
        keys, values = (part[:, None, :, None].double() for part in (input_ids, position_ids))
        if cache is not None:
            keys, values = cache.update(keys, values, 0)
        seen = _seen(attention_mask, queries, keys.shape[2], input_ids.device)
        marks = _scramble(keys[:, 0, :, 0].long() * 1_000_003 + values[:, 0, :, 0].long() * 7919 + 1)
        state = (seen * marks[:, None]).sum(-1)  # [B, N]: what each query sees, in any order, each with its position
        noise = _scramble(state[..., None] ^ _scramble(torch.arange(self.config.vocab_size, device=state.device) + 17))
        logits = (noise & 0xFFFFFF).double() / 0xFFFFFF * 2 * self.config.sharpness
        return CausalLMOutputWithPast(logits=logits[:, -logits_to_keep:], past_key_values=cache)


def toy_model(vocab_size: int = 7, sharpness: float = 2.0) -> ToyLM:
    """A toy model, ready to decode."""
    model = ToyLM(ToyConfig(vocab_size=vocab_size, sharpness=sharpness))
    model.eval()
    return model


def _seen(mask: Tensor | None, queries: int, slots: int, device: torch.device) -> Tensor:
    """``[B or 1, N, K]`` bool: the slots that each query sees."""
    if mask is not None and mask.dim() == 4:
        return mask[:, 0] if mask.dtype == torch.bool else mask[:, 0] == 0
    causal = torch.arange(slots, device=device) <= torch.arange(slots - queries, slots, device=device)[:, None]
    return causal[None] if mask is None else causal[None] & mask[:, None, :slots].bool()


def _scramble(x: Tensor) -> Tensor:
    """A 64-bit finaliser in wrapping int64 arithmetic."""
    for shift, factor in ((31, 0x7FB5D329728EA185), (27, -0x7E25210B43D22BB3)):
        x = (x ^ (x >> shift)) * factor
    return x ^ (x >> 33)
