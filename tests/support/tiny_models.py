"""Real architectures at toy size, in float64, and a batch of prompts for them."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

VOCAB = 37
SMALL: dict[str, Any] = {
    "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": None,
}  # fmt: skip
BUILD: dict[str, Any] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SMALL)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SMALL, head_dim=8)),
    "qwen2-sliding": lambda: Qwen2ForCausalLM(
        Qwen2Config(**SMALL, use_sliding_window=True, sliding_window=6, max_window_layers=1)
    ),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=64, pad_token_id=0, eos_token_id=None)
    ),
    "mistral-sliding": lambda: MistralForCausalLM(MistralConfig(**SMALL, sliding_window=7)),
    "gemma3": lambda: Gemma3ForCausalLM(
        Gemma3TextConfig(**SMALL, head_dim=8, sliding_window=5, layer_types=["sliding_attention", "full_attention"])
    ),
    "phi3": lambda: Phi3ForCausalLM(Phi3Config(**SMALL)),
    "mixtral": lambda: MixtralForCausalLM(MixtralConfig(**SMALL, num_local_experts=3, num_experts_per_tok=2)),
}


@cache
def tiny(name: str, attention: str = "sdpa") -> Any:
    torch.manual_seed(7)
    model = BUILD[name]().double().eval()
    model.set_attn_implementation(attention)
    if name == "mixtral":
        model.set_experts_implementation("eager")  # the default has no float64 kernel
    for parameter in model.parameters():
        parameter.data.mul_(4)  # random weights at their usual scale barely attend; these do
    return model


def batch() -> dict[str, torch.Tensor]:
    """Three prompts of 4, 9 and 11 tokens, left-padded."""
    generator = torch.Generator().manual_seed(3)
    ids, mask = torch.zeros(3, 11, dtype=torch.long), torch.zeros(3, 11, dtype=torch.long)
    for row, length in enumerate((4, 9, 11)):
        ids[row, -length:] = torch.randint(2, VOCAB, (length,), generator=generator)
        mask[row, -length:] = 1
    return {"input_ids": ids, "attention_mask": mask}


def alone(row: int) -> dict[str, torch.Tensor]:
    inputs = batch()
    keep = inputs["attention_mask"][row].bool()
    return {"input_ids": inputs["input_ids"][row, keep][None]}
