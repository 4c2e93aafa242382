"""Tiny random models that take no trees: recurrent, convolutional and hybrid layers, ALiBi, no position ids."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers

SIZE = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "pad_token_id": 0, "eos_token_id": 1}
ATTENTION = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 48}
ATTENTION |= {"max_position_embeddings": 256}
LINEAR = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
LINEAR |= {"layer_types": ["linear_attention", "full_attention"]}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
EXPERTS |= {"shared_expert_intermediate_size": 16}
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_expand": 2, "mamba_chunk_size": 8}
MAMBA |= {"mamba_n_groups": 1, "mamba_d_conv": 4}

CHAINS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3-next": ("Qwen3NextForCausalLM", SIZE | ATTENTION | LINEAR | EXPERTS),
    "qwen3.5": ("Qwen3_5ForCausalLM", SIZE | ATTENTION | LINEAR),
    "mamba2": (
        "Mamba2ForCausalLM",
        SIZE | {"num_heads": 4, "head_dim": 16, "state_size": 8, "chunk_size": 8, "n_groups": 1},
    ),
    "falcon-h1": ("FalconH1ForCausalLM", SIZE | ATTENTION | MAMBA | {"mamba_d_ssm": 64}),
    "bamba": ("BambaForCausalLM", SIZE | ATTENTION | MAMBA | {"attn_layer_indices": [1]}),
    "granite-hybrid": (
        "GraniteMoeHybridForCausalLM",
        SIZE
        | ATTENTION
        | MAMBA
        | {"layer_types": ["mamba", "attention"], "shared_intermediate_size": 16}
        | {"num_local_experts": 2, "num_experts_per_tok": 1},
    ),
    "lfm2": (
        "Lfm2ForCausalLM",
        SIZE | ATTENTION | {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
    ),
    "bloom": ("BloomForCausalLM", SIZE | {"n_head": 4, "n_layer": 2}),
    "mpt": ("MptForCausalLM", {"vocab_size": 60, "d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 256}),
}
"""By name: class and settings."""


def chain_model(name: str, seed: int = 0) -> Any:
    """A random model of a family, in float32."""
    kind, settings = CHAINS[name]
    torch.manual_seed(seed)
    model_class = getattr(transformers, kind)
    model = model_class(model_class.config_class(**settings)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3)  # so that texts do not end in a loop at once
    return model


Build = Callable[[str], Any]
