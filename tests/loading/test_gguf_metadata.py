"""What a GGUF file says, and transformers does not read, counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Gemma3TextConfig, Starcoder2Config

from racer.errors import ModelNotFound
from racer.kernels.native.packed import available
from racer.loading import models, pretrained, sources
from racer.loading.gguf_metadata import GgufMetadata
from support import tiny_gguf

pytest.importorskip("gguf")
FACTOR = 8.0
LLAMA3 = {"rope_type": "llama3", "factor": FACTOR, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 8192}
LINEAR = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
YARN = {"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 4.0}
SHORT_FACTORS, LONG_FACTORS = np.linspace(1, 1.5, 12, dtype=np.float32), np.linspace(1, 40, 12, dtype=np.float32)
TRAINED = {"phi3.rope.scaling.original_context_length": 512}
LONG = {"rope_type": "longrope", "original_max_position_embeddings": 512}
LONG |= {"short_factor": SHORT_FACTORS.tolist(), "long_factor": LONG_FACTORS.tolist()}
TEXT = torch.randint(0, 256, (1, 600), generator=torch.Generator().manual_seed(0))


def divisors() -> np.ndarray:
    """As llama.cpp writes them for Llama 3.1."""
    plain, scaled = tiny_gguf.model().model.rotary_emb.inv_freq, tiny_gguf.model(**LLAMA3).model.rotary_emb.inv_freq
    return (plain / scaled).numpy()


@pytest.mark.parametrize(
    ("more", "tensors", "rope"),
    [
        ({}, {}, {}),
        ({"llama.rope.scaling.type": "none"}, {}, {}),
        ({"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 1.0}, {}, {}),
        (LINEAR, {}, {"rope_type": "linear", "factor": 4.0}),
        ({"llama.rope.scale_linear": 4.0}, {}, {"rope_type": "linear", "factor": 4.0}),
        (
            {**YARN, "llama.rope.scaling.original_context_length": 512},
            {},
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512},
        ),
        ({}, {"rope_freqs__weight": divisors()}, LLAMA3),
    ],
    ids=["nothing", "none", "by one", "linear", "linear, once", "yarn", "llama 3"],
)
@torch.no_grad()
def test_positions_are_scaled_as_the_file_says(
    more: dict[str, Any], tensors: dict[str, np.ndarray], rope: dict[str, Any], tmp_path: Path
) -> None:
    """They were not scaled at all: the model was another one."""
    file = tiny_gguf.write(tmp_path / "model.gguf", more=more, **tensors)
    loaded = models.load(str(file), dtype="fp32", device="cpu")
    logits = loaded.model(TEXT).logits
    torch.testing.assert_close(logits, tiny_gguf.model(**rope)(TEXT).logits, rtol=1e-3, atol=1e-3)
    if rope:
        assert not torch.allclose(logits, tiny_gguf.model()(TEXT).logits, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    ("more", "tensors", "what"),
    [
        ({**YARN, "llama.rope.scaling.attn_factor": 2.0}, {}, "yarn"),
        ({"llama.rope.scaling.type": "longrope"}, {}, "longrope"),
        (
            {},
            {"rope_factors_long__weight": np.ones(16), "rope_factors_short__weight": np.ones(16)},
            "rope_factors_long",
        ),
        ({}, {"rope_freqs__weight": np.linspace(1, 9, 16)}, "rope_freqs"),
    ],
    ids=["more of yarn", "longrope", "two tables and no length", "another table"],
)
def test_what_is_not_understood_is_refused(
    more: dict[str, Any], tensors: dict[str, np.ndarray], what: str, tmp_path: Path
) -> None:
    file = tiny_gguf.write(tmp_path / "model.gguf", more=more, **tensors)
    with pytest.raises(ModelNotFound, match=rf"scales its positions \(.*{what}.*load the folder"):
        models.load(str(file), dtype="fp32", device="cpu")


@pytest.mark.parametrize(
    ("more", "window", "rope"),
    [
        ({}, None, {}),
        ({"phi3.attention.sliding_window": 100}, 100, {}),
        ({"phi3.attention.sliding_window": 4096}, None, {}),
        ({"rotary": 24}, None, {"partial_rotary_factor": 0.75}),
        ({"rotary": 24, **TRAINED}, None, {"partial_rotary_factor": 0.75, **LONG}),
        (
            {"rotary": 24, **TRAINED, "phi3.rope.scaling.attn_factor": 1.5},
            None,
            {"partial_rotary_factor": 0.75, **LONG, "attention_factor": 1.5},
        ),
    ],
    ids=["nothing", "a window", "a window beyond the context", "a part of each head", "longrope", "and its attention"],
)
@torch.no_grad()
def test_windows_and_the_part_of_a_head_that_is_rotated(
    more: dict[str, Any], window: int | None, rope: dict[str, Any], tmp_path: Path
) -> None:
    tables = {"rope_factors_short__weight": SHORT_FACTORS, "rope_factors_long__weight": LONG_FACTORS}
    file = tiny_gguf.write(tmp_path / "model.gguf", more=more, arch="phi3", **(tables if "rope_type" in rope else {}))
    source = sources.find(str(file))
    with models.quiet():
        found = pretrained.model(source, "float32", GgufMetadata(file)).eval()(TEXT).logits
    expected = tiny_gguf.model("phi3", window, **rope)(TEXT).logits
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    if window or rope:
        assert not torch.allclose(found, tiny_gguf.model("phi3")(TEXT).logits, rtol=1e-2, atol=1e-2)


def told(tmp_path: Path, arch: str, **values: Any) -> GgufMetadata:
    """A file that says no more than this."""
    import gguf

    writer = gguf.GGUFWriter(tmp_path / "facts.gguf", arch)
    for key, value in values.items():
        add = writer.add_float32 if isinstance(value, float) else writer.add_uint32
        add(f"{arch}.{key.replace('__', '.')}", value)
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        step()
    writer.close()
    return GgufMetadata(tmp_path / "facts.gguf")


def test_a_rotary_base_that_is_not_read(tmp_path: Path) -> None:
    found = told(tmp_path, "starcoder2", rope__freq_base=1e6)
    config = Starcoder2Config()
    assert found.tells_more
    found.correct(config)
    assert config.rope_parameters["rope_theta"] == 1e6
    assert not told(tmp_path, "qwen2", rope__freq_base=1e6).tells_more


@pytest.mark.parametrize(("layers", "scalar"), [(62, 168), (48, 256)], ids=["27 B", "12 B"])
def test_the_largest_of_gemma_divide_scores_otherwise(layers: int, scalar: int, tmp_path: Path) -> None:
    sizes = {"num_hidden_layers": layers, "hidden_size": 5376, "num_attention_heads": 32}
    config, found = Gemma3TextConfig(**sizes), told(tmp_path, "gemma3", block_count=layers)
    assert found.tells_more is (layers == 62)
    found.correct(config)
    assert config.query_pre_attn_scalar == scalar


@pytest.mark.parametrize("key", ["attention.sliding_window", "final_logit_softcapping"])
def test_what_its_class_has_not_is_refused(key: str, tmp_path: Path) -> None:
    value: Any = 100 if key.endswith("window") else 30.0
    file = tiny_gguf.write(tmp_path / "model.gguf", more={f"llama.{key}": value})
    with pytest.raises(ModelNotFound, match=rf"it has {key} = {value:g}.* in a way that is not read here"):
        models.load(str(file), dtype="fp32", device="cpu")


TEMPLATE = "{% for message in messages %}{{ message['content'] }}<|eot_id|>{% endfor %}"


@pytest.mark.parametrize(
    ("more", "ends"),
    [
        ({}, [tiny_gguf.END]),
        ({"tokenizer.ggml.eot_token_id": tiny_gguf.TURN}, [tiny_gguf.END, tiny_gguf.TURN]),
        ({"tokenizer.ggml.eot_token_id": tiny_gguf.END}, [tiny_gguf.END]),
        ({"tokenizer.ggml.eom_token_id": 7}, [tiny_gguf.END, 7]),
        ({"tokenizer.chat_template": TEMPLATE}, [tiny_gguf.END, tiny_gguf.TURN]),
    ],
    ids=["nothing", "said", "the same", "of a message", "by the template"],
)
def test_answers_end_where_a_turn_ends(more: dict[str, Any], ends: list[int], tmp_path: Path) -> None:
    """They went on until their length was reached."""
    loaded = models.load(str(tiny_gguf.write(tmp_path / "model.gguf", more=more)), dtype="fp32", device="cpu")
    said = loaded.model.generation_config.eos_token_id
    assert (said if isinstance(said, list) else [said]) == ends


@pytest.mark.skipif(not available(), reason="the processor has no dot products of bytes")
@pytest.mark.parametrize(
    ("kind", "dtype", "weights", "found"),
    [
        ("Q8_0", None, None, ("fp32", "keep")),
        ("Q8_0", "bf16", None, ("bf16", "plain")),
        ("F16", None, None, ("bf16", "plain")),
        ("BF16", None, "keep", ("bf16", "plain")),
        ("F32", None, None, ("bf16", "plain")),
        ("F16", None, "int8", ("fp32", "int8")),
    ],
)
def test_weights_are_kept_in_few_bits_where_the_file_has_them_so(
    kind: str, dtype: str | None, weights: str | None, found: tuple[str, str], tmp_path: Path
) -> None:
    """A file without became float32, twice as large, and was called kept."""
    file = tiny_gguf.write(tmp_path / "model.gguf", kind)
    loaded = models.load(str(file), dtype=dtype, weights=weights, device="cpu")
    assert (loaded.dtype, loaded.weights) == found


def test_how_tokens_are_chosen_is_said_by_who_asks(tmp_path: Path) -> None:
    """A model's own ``min_p`` came in unasked."""
    model = tiny_gguf.model()
    own = {"do_sample": True, "min_p": 0.3, "typical_p": 0.4, "num_beams": 3, "repetition_penalty": 1.2, "top_k": 3}
    for name, value in own.items():
        setattr(model.generation_config, name, value)
    model.generation_config.suppress_tokens = [5]
    model.save_pretrained(tmp_path)
    tokens = models.load(str(tiny_gguf.write(tmp_path / "other.gguf")), dtype="fp32", device="cpu").tokenizer
    tokens.save_pretrained(tmp_path)
    settings = models.load(str(tmp_path), dtype="fp32", device="cpu").model.generation_config
    assert {getattr(settings, name) for name in own} <= {None, False, 1, 50}
    assert settings.suppress_tokens == [5]
    assert settings.eos_token_id == tiny_gguf.END
