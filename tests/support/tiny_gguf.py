"""Tiny GGUF files of Llama's and Phi 3's kind, with whatever else is to be said in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Phi3Config, Phi3ForCausalLM
from transformers.convert_slow_tokenizer import bytes_to_unicode

from support.loud_llama import loud

SPECIAL = ("<|begin|>", "<|end_of_text|>", "<|eot_id|>")
TEXTS = (*bytes_to_unicode().values(), "ab", "cd")
BEGIN, END, TURN = range(len(TEXTS), len(TEXTS) + len(SPECIAL))
HEADS, HIDDEN, THETA = 2, 64, 500000.0
KINDS: dict[str, tuple[type[Any], type[Any]]] = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "phi3": (Phi3Config, Phi3ForCausalLM),
}


def model(arch: str = "llama", window: int | None = None, **rope: Any) -> Any:
    """What the files hold."""
    torch.manual_seed(0)
    config, kind = KINDS[arch]
    more = {} if window is None else {"sliding_window": window}
    if rope.get("rope_type") == "longrope":
        more["original_max_position_embeddings"] = rope["original_max_position_embeddings"]
    settings = config(
        vocab_size=len(TEXTS) + len(SPECIAL), hidden_size=HIDDEN, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=HEADS, num_key_value_heads=HEADS, max_position_embeddings=2048, rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": THETA} | rope, bos_token_id=BEGIN, eos_token_id=END,
        pad_token_id=None, **more,
    )  # fmt: skip
    return loud(kind(settings), 8)


def write(
    file: Path, kind: str = "F32", more: dict[str, Any] | None = None, arch: str = "llama", **tensors: np.ndarray
) -> Path:
    """:func:`model` as a file, its matrices in the type ``kind``, with more keys and tensors.

    A dot in the name of a tensor is written as two low lines.
    """
    import gguf

    writer = gguf.GGUFWriter(file, arch)
    writer.add_context_length(2048)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(2)
    writer.add_feed_forward_length(96)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count((more or {}).get("rotary", HIDDEN // HEADS))
    writer.add_rope_freq_base(THETA)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(TEXTS) + len(SPECIAL))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([*TEXTS, *SPECIAL])
    writer.add_token_types([1] * len(TEXTS) + [3] * len(SPECIAL))
    writer.add_token_merges(["a b", "c d"])  # of a list of one, older transformers make no list
    writer.add_bos_token_id(BEGIN)
    writer.add_eos_token_id(END)
    writer.add_pad_token_id(END)
    for key, value in (more or {}).items():
        add = {str: writer.add_string, int: writer.add_uint32, float: writer.add_float32}[type(value)]
        if key != "rotary":
            add(key, value)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[arch.upper()], 2)
    for path, weight in model(arch).state_dict().items():
        name, array = names.get_name(path.removesuffix(".weight")), weight.numpy()
        if path.endswith(("q_proj.weight", "k_proj.weight")):  # halves lie side by side there
            array = array.reshape(HEADS, 2, -1, HIDDEN).swapaxes(1, 2).reshape(array.shape)
        _add(gguf, writer, f"{name}.weight", array, kind if array.ndim == 2 else "F32")
    for low_lines, array in tensors.items():
        _add(gguf, writer, low_lines.replace("__", "."), array, "F32")
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        step()
    writer.close()
    return file


def _add(gguf: Any, writer: Any, name: str, array: np.ndarray, kind: str) -> None:
    of_kind = gguf.GGMLQuantizationType[kind]
    data = array.astype(np.float32) if kind == "F32" else gguf.quantize(array.astype(np.float32), of_kind)
    writer.add_tensor(name, data, raw_dtype=of_kind)
