"""A small Llama whose texts are not all alike, and two left-padded prompts for it."""

from __future__ import annotations

from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

VOCAB = 128
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "eos_token_id": None,
    "pad_token_id": 0,
}
IDS = torch.randint(3, VOCAB, (2, 12), generator=torch.Generator().manual_seed(2))
MASK = torch.ones_like(IDS).masked_fill(torch.arange(12) < torch.tensor([[3], [0]]), 0)


def loud(model: Any, times: float = 4) -> Any:
    """A random model, its matrices made larger: so small ones say the same whatever they read."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(times)
    return model.eval()


def llama() -> Any:
    torch.manual_seed(0)
    return loud(LlamaForCausalLM(LlamaConfig(**SIZES)))
