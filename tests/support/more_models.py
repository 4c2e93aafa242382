"""Toy models whose layers store nothing, attend within chunks, choose their keys, or offset their positions."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import transformers
from transformers import (
    Gemma3nForCausalLM,
    Gemma3nTextConfig,
    Gemma4ForCausalLM,
    Gemma4TextConfig,
    Llama4ForCausalLM,
    Llama4TextConfig,
    RobertaConfig,
    RobertaForCausalLM,
)

from support.tiny_models import SMALL, VOCAB

SHARING: dict[str, Any] = SMALL | {
    "num_hidden_layers": 4, "num_kv_shared_layers": 2, "head_dim": 8, "sliding_window": 8,
    "layer_types": ["sliding_attention", "full_attention"] * 2, "vocab_size_per_layer_input": VOCAB,
    "hidden_size_per_layer_input": 8,
}  # fmt: skip
BUILD: dict[str, Any] = {
    "gemma3n": lambda: Gemma3nForCausalLM(
        Gemma3nTextConfig(**SHARING, laurel_rank=4, activation_sparsity_pattern=[0.0] * 4, altup_num_inputs=2)
    ),
    "gemma4": lambda: Gemma4ForCausalLM(Gemma4TextConfig(**SHARING, global_head_dim=8)),
    "llama4": lambda: Llama4ForCausalLM(
        Llama4TextConfig(
            **SMALL | {"num_hidden_layers": 4}, attention_chunk_size=8, intermediate_size_mlp=48, head_dim=8,
            num_local_experts=2, no_rope_layers=[1, 1, 1, 0], moe_layers=[1],
        )
    ),
    "deepseek-v3.2": lambda: transformers.DeepseekV32ForCausalLM(
        transformers.DeepseekV32Config(
            **SMALL
            | {"num_key_value_heads": 4, "moe_intermediate_size": 16, "n_routed_experts": 4, "n_group": 1},
            topk_group=1, num_experts_per_tok=2, kv_lora_rank=8, q_lora_rank=16, qk_rope_head_dim=4, v_head_dim=8,
            qk_nope_head_dim=8, index_topk=8, index_head_dim=8, index_n_heads=16, first_k_dense_replace=2,
        )
    ),
    "roberta": lambda: RobertaForCausalLM(
        RobertaConfig(
            vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
            max_position_embeddings=60, is_decoder=True, pad_token_id=0, eos_token_id=None,
        )
    ),
}  # fmt: skip


@cache
def build(name: str) -> Any:
    torch.manual_seed(7)
    model = BUILD[name]().double().eval()
    if name in ("llama4", "deepseek-v3.2"):
        model.set_experts_implementation("eager")
    for parameter in model.parameters():
        parameter.data.mul_(2)
    return model
