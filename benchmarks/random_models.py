"""Models with random weights in the shapes of models in use, for timing where weights do not matter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {"hidden": (32, 64), "heads": (4, 2), "layers": 2, "vocab": 320, "tied": True},
    "smollm2-135m": {"hidden": (576, 1536), "heads": (9, 3), "layers": 30, "vocab": 49152, "tied": True},
    "1b": {"hidden": (2048, 8192), "heads": (32, 8), "layers": 16, "vocab": 128256, "tied": True},
    "8b": {"hidden": (4096, 14336), "heads": (32, 8), "layers": 32, "vocab": 128256, "tied": False},
}
"""Random models: hidden and MLP width, query and key heads, and so on, of models in use (but for `tiny`)."""


def random_model(name: str, device: torch.device, dtype: torch.dtype) -> Any:
    """A Llama of one of the :data:`SHAPES`, made on the device in its dtype, so that no other memory is needed.

    :raises MemoryError: it would not fit.
    """
    shape = SHAPES[name]
    config = LlamaConfig(
        hidden_size=shape["hidden"][0],
        intermediate_size=shape["hidden"][1],
        num_attention_heads=shape["heads"][0],
        num_key_value_heads=shape["heads"][1],
        num_hidden_layers=shape["layers"],
        vocab_size=shape["vocab"],
        tie_word_embeddings=shape["tied"],
        max_position_embeddings=131072,
        bos_token_id=None,
        eos_token_id=None,
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    wanted, free = sum(p.numel() for p in model.parameters()) * dtype.itemsize * 1.25, free_bytes(device)
    if free < wanted:
        raise MemoryError(f"it needs {wanted / 1e9:.1f} GB on {device}, and {free / 1e9:.1f} GB are free")
    model.to_empty(device=device).tie_weights()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0, weight.shape[-1] ** -0.5) if weight.dim() > 1 else weight.fill_(1)
    with device:
        model.model.rotary_emb = type(model.model.rotary_emb)(config)  # its angles are no parameters
    return model.eval()


def free_bytes(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:  # not Linux: let it try
        return float("inf")
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
