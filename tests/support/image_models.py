"""Tiny random models that see images, and prompts for them, their images made ready by transformers' own processors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from torch import Tensor

from support.loud_llama import loud

SIDE = 32
"""Pixels of an image's side, where the model takes one size alone."""
VISION = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
EYES = {
    "depth": 2,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_heads": 2,
    "patch_size": 14,
    "out_hidden_size": 64,
}
"""The same of models that take images of any size."""
TEXT = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "eos_token_id": None,
    "bos_token_id": 1,
}
IMAGE = 120
IDS = {"image_token_id": IMAGE, "video_token_id": 121, "vision_start_token_id": 122, "vision_end_token_id": 123}
PLANES = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}


def image(width: int = SIDE, height: int = SIDE, seed: int = 0) -> Image.Image:
    """A picture of noise."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


def prompts(rows: list[list[int]]) -> dict[str, Tensor]:
    """Rows of tokens, left-padded to one length, with their mask and the kinds of their tokens."""
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return {"input_ids": ids, "attention_mask": mask, "mm_token_type_ids": (ids == IMAGE).long()}


def _grids(kind: str, patch: int) -> dict[str, Any]:
    """Two prompts for a model that takes images of any size: of different lengths, with one image and with two."""
    processor = getattr(transformers, f"{kind}ImageProcessorPil")(
        patch_size=patch, merge_size=2, temporal_patch_size=2, size={"shortest_edge": 1024, "longest_edge": 12544}
    )
    shown = processor([image(56, 84, 1), image(112, 56, 2), image(84, 84, 3)], return_tensors="pt")
    counts = [int(grid.prod()) // 4 for grid in shown["image_grid_thw"]]
    one, two, three = ([122, *[IMAGE] * count, 123] for count in counts)
    rows = prompts([[5, 6, *one, 7, 8, 9, 10, 8, 9], [11, *two, 12, 13, *three, 14, 15, 14, 15]])
    return {**rows, "pixel_values": shown["pixel_values"], "image_grid_thw": shown["image_grid_thw"]}


def _fixed(kind: str, tokens: int, **settings: Any) -> dict[str, Any]:
    """The same for a model that takes images of one size, each as so many tokens."""
    size = {"height": SIDE, "width": SIDE}
    processor = getattr(transformers, f"{kind}ImageProcessorPil")(**{"size": size, **settings})
    shown = processor([image(seed=1), image(seed=2), image(seed=3)], return_tensors="pt")
    seen = [IMAGE] * tokens
    rows = prompts([[5, 6, *seen, 7, 8, 9, 10, 8, 9], [11, *seen, 12, 13, *seen, 14, 15, 14, 15]])
    return {**rows, "pixel_values": shown["pixel_values"]}


def _model(name: str, config: Any) -> Any:
    torch.manual_seed(0)
    for part in (config, config.get_text_config()):
        part.eos_token_id, part.pad_token_id = None, 0
    model = loud(getattr(transformers, name)(config), 3)  # so that images matter
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = None, 0
    return model


def _text(name: str, **more: Any) -> Any:
    return getattr(transformers, name)(**{**TEXT, **more})


def qwen2_vl() -> tuple[Any, dict[str, Any]]:
    vision = {"depth": 2, "embed_dim": 32, "hidden_size": 64, "num_heads": 2, "patch_size": 14}
    text = {**TEXT, "rope_parameters": PLANES}
    config = transformers.Qwen2VLConfig(text_config=text, vision_config=vision, **IDS)
    return _model("Qwen2VLForConditionalGeneration", config), _grids("Qwen2VL", 14)


def qwen2_5_vl() -> tuple[Any, dict[str, Any]]:
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_heads": 2,
        "patch_size": 14,
        "out_hidden_size": 64,
        "window_size": 56,
        "fullatt_block_indexes": [1],
    }
    text = {**TEXT, "rope_parameters": PLANES}
    config = transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision, **IDS)
    return _model("Qwen2_5_VLForConditionalGeneration", config), _grids("Qwen2VL", 14)


def _qwen3(name: str, **text: Any) -> tuple[Any, dict[str, Any]]:
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_heads": 2,
        "patch_size": 14,
        "out_hidden_size": 64,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0, 1],
    }
    text = {**TEXT, "rope_parameters": {**PLANES, "mrope_interleaved": True}, **text}
    config = getattr(transformers, f"{name}Config")(text_config=text, vision_config=vision, **IDS)
    return _model(f"{name}ForConditionalGeneration", config), _grids("Qwen2VL", 14)


def qwen3_vl() -> tuple[Any, dict[str, Any]]:
    return _qwen3("Qwen3VL")


def qwen3_5() -> tuple[Any, dict[str, Any]]:
    """A hybrid: it takes chains."""
    state = {"linear_key_head_dim": 16, "linear_value_head_dim": 16, "linear_num_key_heads": 2}
    kinds = ["linear_attention", "full_attention"] * 2
    rope = {**PLANES, "mrope_section": [1, 1, 2], "mrope_interleaved": True, "partial_rotary_factor": 0.5}
    return _qwen3("Qwen3_5", linear_num_value_heads=4, layer_types=kinds, rope_parameters=rope, **state)


def glm4v() -> tuple[Any, dict[str, Any]]:
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "patch_size": 14,
        "out_hidden_size": 64,
        "image_size": 112,
    }
    text = {**TEXT, "rope_parameters": {**PLANES, "partial_rotary_factor": 1.0}}
    ids = {"image_token_id": IMAGE, "video_token_id": 121, "image_start_token_id": 122, "image_end_token_id": 123}
    config = transformers.Glm4vConfig(
        text_config=text, vision_config=vision, video_start_token_id=124, video_end_token_id=125, **ids
    )
    return _model("Glm4vForConditionalGeneration", config), _grids("Glm4v", 14)


def gemma3() -> tuple[Any, dict[str, Any]]:
    """Windows shorter than the prompt, and images that are attended to both ways."""
    kinds = ["sliding_attention", "full_attention"] * 2
    text = transformers.Gemma3TextConfig(**{**TEXT, "sliding_window": 8, "layer_types": kinds})
    vision = {**VISION, "image_size": SIDE, "patch_size": 8}
    config = transformers.Gemma3Config(
        text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_index=IMAGE
    )
    inputs = _fixed("Gemma3", 4)
    inputs["token_type_ids"] = inputs.pop("mm_token_type_ids")
    return _model("Gemma3ForConditionalGeneration", config), inputs


def gemma4() -> tuple[Any, dict[str, Any]]:
    """The same, with layers that store nothing and images of any size."""
    kinds = ["sliding_attention", "full_attention"] * 2
    text = {
        **TEXT,
        "sliding_window": 8,
        "layer_types": kinds,
        "num_kv_shared_layers": 2,
        "global_head_dim": 16,
        "vocab_size_per_layer_input": 128,
        "hidden_size_per_layer_input": 8,
    }
    vision = {**VISION, "num_key_value_heads": 2, "head_dim": 16, "patch_size": 8, "pooling_kernel_size": 2}
    config = transformers.Gemma4Config(
        text_config=transformers.Gemma4TextConfig(**text),
        vision_config=transformers.Gemma4VisionConfig(**vision, position_embedding_size=64),
        image_token_id=IMAGE,
        video_token_id=121,
        audio_token_id=124,
    )
    processor = transformers.Gemma4ImageProcessorPil(patch_size=8, pooling_kernel_size=2, max_soft_tokens=70)
    shown = processor([image(seed=1), image(48, 32, seed=2), image(seed=3)], return_tensors="pt")
    one, two, three = ([IMAGE] * int(count) for count in shown.pop("num_soft_tokens_per_image"))
    rows = prompts([[5, 6, *one, 7, 8, 9, 10, 8, 9], [11, *two, 12, 13, *three, 14, 15, 14, 15]])
    return _model("Gemma4ForConditionalGeneration", config), {**rows, **shown}


def llava() -> tuple[Any, dict[str, Any]]:
    vision = transformers.CLIPVisionConfig(**VISION, image_size=SIDE, patch_size=8)
    config = transformers.LlavaConfig(
        vision_config=vision, text_config=_text("LlamaConfig"), image_token_index=IMAGE, image_seq_length=16
    )
    inputs = _fixed("CLIP", 16, crop_size={"height": SIDE, "width": SIDE})
    del inputs["mm_token_type_ids"]
    return _model("LlavaForConditionalGeneration", config), inputs


def smol_vlm() -> tuple[Any, dict[str, Any]]:
    vision = transformers.SmolVLMVisionConfig(**VISION, image_size=SIDE, patch_size=8)
    config = transformers.SmolVLMConfig(
        vision_config=vision, text_config=_text("LlamaConfig"), image_token_id=IMAGE, scale_factor=2
    )
    processor = transformers.SmolVLMImageProcessorPil(
        size={"longest_edge": SIDE}, max_image_size={"longest_edge": SIDE}, do_image_splitting=False
    )
    shown = processor([[image(seed=1)], [image(seed=2), image(24, 32, seed=3)]], return_tensors="pt")
    seen = [IMAGE] * 4
    rows = prompts([[5, 6, *seen, 7, 8, 9, 10, 8, 9], [11, *seen, 12, 13, *seen, 14, 15, 14, 15]])
    del rows["mm_token_type_ids"]
    kept = {name: shown[name] for name in ("pixel_values", "pixel_attention_mask")}
    return _model("SmolVLMForConditionalGeneration", config), {**rows, **kept}


def intern_vl() -> tuple[Any, dict[str, Any]]:
    vision = transformers.InternVLVisionConfig(**VISION, image_size=[SIDE, SIDE], patch_size=[8, 8])
    config = transformers.InternVLConfig(
        vision_config=vision, text_config=_text("Qwen2Config"), image_token_id=IMAGE, image_seq_length=4
    )
    inputs = _fixed("GotOcr2", 4, crop_to_patches=False)
    del inputs["mm_token_type_ids"]
    return _model("InternVLForConditionalGeneration", config), inputs


MODELS: dict[str, Callable[[], tuple[Any, dict[str, Any]]]] = {
    make.__name__: make
    for make in (qwen2_vl, qwen2_5_vl, qwen3_vl, qwen3_5, glm4v, gemma3, gemma4, llava, smol_vlm, intern_vl)
}
