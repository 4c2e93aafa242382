"""A tiny random model of any class, from its configuration's defaults with the sizes made small."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from transformers import PreTrainedConfig

VOCAB = 128
START = 2
"""The token that decoders behind an encoder start with."""
WINDOW = 8
"""Of sliding windows and chunks: the sweep's prompts are longer."""
LAYERS = 4
SIZES: tuple[tuple[str, int], ...] = (
    (r"(encoder|decoder)_layers|num_(encoder|decoder)_layers", 2),
    (r"(num_hidden|n|num)_layers?|depth|num_hidden_layers", LAYERS),
    (r"vocab_size_per_layer_input", VOCAB),
    (r"vocab_size|n_vocab", VOCAB),
    (r"hidden_size_per_layer_input", 8),
    (
        r"hidden_size|d_model|n_embd|dim|embed_dim|embedding_size|word_embed_proj_dim|hidden_dim|attention_hidden_size",
        64,
    ),
    (
        r"(moe_|shared_expert_|shared_|expert_|dense_)?intermediate_size(_mlp)?|(encoder_|decoder_)?ffn_dim|n_inner|d_ff|inner_dim|ffn_hidden_size|ffn_hidden_dim|moe_ffn_hidden_size",
        64,
    ),
    (r"linear_num_key_heads", 2),
    (r"linear_num_value_heads", 4),
    (
        r"num_(key_value|kv)_heads|n_head_kv|num_kv_heads|kv_n_heads|swa_num_key_value_heads|num_global_key_value_heads",
        2,
    ),
    (r"(num_attention|n|num|encoder_attention|decoder_attention|index_n|swa_num_attention)_heads?", 4),
    (r"linear_num_heads", 4),
    (r"(qk_nope|qk_rope|v)_head_dim|index_head_dim", 16),
    (
        r"(linear_(key_|value_)?)?head_dim|d_kv|swa_head_dim|global_head_dim|head_size|attention_head_dim|kv_channels",
        16,
    ),
    (r"(q|kv|o|gate|decay|v|a|g|w)_(lora|low)_rank(_dim)?", 16),
    (r"(num_(local_)?experts|n_routed_experts|moe_num_experts|num_routed_experts|num_dense_experts)", 4),
    (
        r"num_experts_per_tok(en)?|top_k_experts|moe_topk|moe_k|num_selected_experts|num_experts_per_token|moe_top_k|top_k",
        2,
    ),
    (r"n_shared_experts|num_shared_experts|moe_num_shared_experts", 1),
    (r"n_group|topk_group|num_expert_groups?", 1),
    (
        r"sliding_window(_size)?|attention_chunk_size|attention_window_size|window_size|local_attention_window",
        WINDOW,
    ),
    (
        r"max_position_embeddings|n_positions|max_seq_len|n_ctx|max_sequence_length|max_target_positions|max_source_positions",
        256,
    ),
    (r"mamba_n_heads|mamba_num_heads", 8),
    (r"mamba_d_head|mamba_head_dim", 16),
    (r"mamba_d_ssm", 128),
    (r"(mamba_d|ssm)_state(_size)?|state_size|ssm_state_size", 8),
    (r"mamba_n_groups|n_groups", 1),
    (r"(mamba_)?chunk_size", 8),
    (r"mamba_dt_rank|time_step_rank", 4),
    (r"lru_width", 64),
    (r"index_topk", 8),
    (r"first_k_dense_replace|num_kv_shared_layers", 1),
    (r"num_meta_tokens|num_memory_tokens", 4),
)
"""What a setting of such a name becomes, the first that fits."""
IDS = re.compile(r".*(token_id|token_index)$")
PER_LAYER = re.compile(
    r".*(layer_types|layers_block_type|block_types|layer_type_list|mlp_layer_types|layers_config|attention_types|no_rope_layers|ffn_types|indexer_types)$"
)
_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
_ROPE_BY_LAYER = {"full_attention": _ROPE, "sliding_attention": _ROPE}
SPECIAL: dict[str, dict[str, Any]] = {
    "GPTNeoConfig": {"attention_types": [[["global", "local"], 2]], "num_layers": 4},
    "Mamba2Config": {"num_heads": 8, "head_dim": 16, "expand": 2},
    "BambaConfig": {"attn_layer_indices": [1]},
    "JambaConfig": {
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "use_mamba_kernels": False,
    },
    "FalconH1Config": {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_ssm": 128, "mamba_expand": 2},
    "MinistralConfig": {"head_dim": 16},
    "HunYuanDenseV1Config": {"head_dim": 16},
    "HunYuanMoEV1Config": {"head_dim": 16},
    "NemotronConfig": {"num_key_value_heads": 2},
    "Dots1Config": {
        "n_routed_experts": 4,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
    },
    "Lfm2MoeConfig": {"layer_types": ["conv", "full_attention", "conv", "full_attention"]},
    "GPTJConfig": {"rotary_dim": 8, "n_head": 4, "n_embd": 64},
    "CodeGenConfig": {"rotary_dim": 8, "n_head": 4, "n_embd": 64},
    "Zamba2Config": {"attention_hidden_size": 128},
    "FalconConfig": {"new_decoder_architecture": False, "multi_query": False, "num_kv_heads": 4},
    "NemotronHConfig": {"hybrid_override_pattern": "M*-M", "mamba_num_heads": 8, "mamba_head_dim": 16},
    "Lfm2Config": {
        "block_auto_adjust_ff_dim": False,
        "layer_types": ["conv", "full_attention", "conv", "full_attention"],
    },
    "GraniteMoeHybridConfig": {"layer_types": ["mamba", "attention", "mamba", "attention"], "mamba_n_heads": 8},
    "MptConfig": {"max_seq_len": 256},
    "BloomConfig": {"n_layer": 2},
    "ZambaConfig": {
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "use_mamba_kernels": False,
        "n_mamba_heads": 2,
        "attention_hidden_size": 128,
        "attention_head_dim": 32,
        "num_key_value_heads": 4,
    },
    "XmodConfig": {"languages": ["en_XX"], "default_language": "en_XX"},
    "DeepseekV2Config": {"num_experts_per_tok": 2},
    "CohereCompassConfig": {"rope_parameters": _ROPE_BY_LAYER},
    "CohereCompassTextConfig": {"rope_parameters": _ROPE_BY_LAYER},
    "Inkling2TextConfig": {"unpadded_vocab_size": VOCAB},
    "Inkling2LoopTextConfig": {
        "unpadded_vocab_size": VOCAB,
        "loop_layer_index_start": 1,
        "loop_layer_index_end": 3,
    },
    "xLSTMConfig": {"hidden_size": 64, "embedding_dim": 64, "num_heads": 4, "qk_dim_factor": 1.0, "v_dim_factor": 1.0},
    "DoryConfig": {"n_input_layers": 2, "n_recurrent_layers": 4, "n_output_layers": 2},
    "Qwen4ExpTextConfig": {
        "indexer_n_heads": 4,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 16,
        "indexer_budget": 8,
        "indexer_compress_ratio": 2,
        "hc_lowrank": 8,
    },
    "ReformerConfig": {
        "axial_pos_shape": (16, 16),
        "axial_pos_embds_dim": (32, 32),
        "attn_layers": ["local", "lsh"] * 2,
        "num_buckets": 4,
        "attention_head_size": 16,
        "lsh_attn_chunk_length": 8,
        "local_attn_chunk_length": 8,
    },
}
"""What single configurations need beside."""


def tiny_config(kind: type[Any]) -> Any:
    """A configuration of class ``kind`` with its sizes made small.

    :raises Exception: whatever the class raises.
    """
    return kind(**_settings(kind))


def _settings(kind: type[Any]) -> dict[str, Any]:
    small: dict[str, Any] = {}
    default = kind()
    for name, value in vars(default).items():
        if name.startswith("_") or name in ("transformers_version", "model_type"):
            continue
        if isinstance(value, PreTrainedConfig):
            small[name] = _settings(type(value))
        elif (size := _size(name, value)) is not None:
            small[name] = size
    if "kv_lora_rank" in small and "num_attention_heads" in small:  # latent attention has as many heads of keys
        small["num_key_value_heads"] = small["num_attention_heads"]
    layers = next(
        (small[name] for name in ("num_hidden_layers", "n_layer", "n_layers", "num_layers") if name in small), LAYERS
    )
    for name, value in vars(default).items():
        if PER_LAYER.fullmatch(name) and isinstance(value, (list, tuple)) and value:
            small[name] = _covering(list(value), layers)
    rope = getattr(default, "rope_parameters", None)
    if isinstance(rope, Mapping):
        small["rope_parameters"] = dict(rope)
        if "mrope_section" in rope:
            small["rope_parameters"]["mrope_section"] = [2, 3, 3]
    return small | SPECIAL.get(kind.__name__, {})


def _size(name: str, value: Any) -> Any:
    if IDS.fullmatch(name):
        if isinstance(value, int) and not isinstance(value, bool):
            return value if value < VOCAB else VOCAB - 1 - value % 50
        return (
            None
            if value is None
            else [number if number < VOCAB else VOCAB - 2 for number in value]
            if isinstance(value, (list, tuple))
            else None
        )
    for pattern, size in SIZES:
        if re.fullmatch(pattern, name):
            if isinstance(value, bool) or (value is None and size != WINDOW):
                return None
            if value is None or isinstance(value, int):
                return size if value is None else min(size, value) if "layers" not in name else size
            if isinstance(value, (list, tuple)) and value and isinstance(value[0], int):
                return [min(size, number) for number in value][:LAYERS]
    return None


def _covering(kinds: list[Any], layers: int) -> list[Any]:
    """So many layers, among which all kinds are, in the order in which they come."""
    distinct = list(dict.fromkeys(map(str, kinds)))
    first = {str(kind): kind for kind in reversed(kinds)}
    chosen = [first[name] for name in distinct][:layers]
    return [chosen[place % len(chosen)] for place in range(layers)]


def tiny_model(kind: type[Any], seed: int = 0) -> Any:
    """A random model of class ``kind`` in float32, in evaluation mode, that never ends a text of its own accord.

    No random numbers are drawn from torch's generators, as far as anybody notices.

    :raises Exception: whatever the class raises.
    """
    with torch.random.fork_rng([]), torch.device("cpu"):
        torch.manual_seed(seed)
        return _made(kind)


def _made(kind: type[Any]) -> Any:
    config = tiny_config(kind.config_class)
    if getattr(config, "is_decoder", None) is False:  # encoders that decode if they are told to, as their docs say
        config.is_decoder = True
    for part in (config, config.get_text_config()):
        part.eos_token_id = None
        part.pad_token_id = 0
    model = kind(config).float().eval()
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    if config.is_encoder_decoder:
        model.generation_config.decoder_start_token_id = START
        model.generation_config.forced_bos_token_id = model.generation_config.forced_eos_token_id = None
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3)  # so that texts are not all alike
            elif not bool(torch.isfinite(parameter).all()):
                parameter.zero_()
    return model
