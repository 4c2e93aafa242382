"""Models with an encoder: their decoders take chains."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import racer
from racer import DecodeConfig
from racer.core.support import probe
from racer.hf.plain import PlainDecodingWarning
from racer.strategies.base import Drafter
from racer.testing.trees import HostileDrafter, ReplayDrafter
from support.image_models import image
from support.loud_llama import loud

VOCAB = 96
NEW = 20
START, PAD = 2, 1
PROMPTS = torch.tensor([[START, 5], [START, 7]])
"""Of the decoders: they tell the rows from each other."""
SIZES = {"vocab_size": VOCAB, "d_model": 32, "pad_token_id": PAD, "eos_token_id": None, "decoder_start_token_id": START}
LAYERS = {
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "forced_eos_token_id": None,
}


def t5() -> tuple[Any, dict[str, Tensor]]:
    config = transformers.T5Config(**SIZES, d_ff=32, d_kv=16, num_layers=2, num_heads=2)
    return transformers.T5ForConditionalGeneration(config), text()


def bart() -> tuple[Any, dict[str, Tensor]]:
    config = transformers.BartConfig(**SIZES, **LAYERS, max_position_embeddings=64)
    return transformers.BartForConditionalGeneration(config), text()


def m2m100() -> tuple[Any, dict[str, Tensor]]:
    """Its positions leave out pad tokens."""
    config = transformers.M2M100Config(**SIZES, **LAYERS, max_position_embeddings=64)
    return transformers.M2M100ForConditionalGeneration(config), text()


def whisper() -> tuple[Any, dict[str, Tensor]]:
    """It has a ``generate`` of its own, which calls transformers'."""
    config = transformers.WhisperConfig(
        **SIZES, **LAYERS, num_mel_bins=8, max_source_positions=20, max_target_positions=64, bos_token_id=3
    )
    features = torch.randn(2, 8, 40, generator=torch.Generator().manual_seed(1))
    return transformers.WhisperForConditionalGeneration(config), {"input_features": features}


def picture_to_text() -> tuple[Any, dict[str, Tensor]]:
    """Two models in one, as those that read handwriting."""
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        transformers.ViTConfig(**small, image_size=32, patch_size=8),
        transformers.BertConfig(**small, vocab_size=VOCAB, eos_token_id=None, pad_token_id=PAD),
    )
    config.decoder_start_token_id, config.pad_token_id = START, PAD
    shown = transformers.ViTImageProcessorPil(size={"height": 32, "width": 32})(
        [image(seed=1), image(seed=2)], return_tensors="pt"
    )
    return transformers.VisionEncoderDecoderModel(config), {"pixel_values": shown["pixel_values"]}


def text() -> dict[str, Tensor]:
    """Two texts to read, padded at their right as encoders have it."""
    ids = torch.randint(4, VOCAB, (2, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[0, 6:] = 0
    return {"input_ids": ids.masked_fill(mask == 0, PAD), "attention_mask": mask}


MODELS: dict[str, Callable[[], tuple[Any, dict[str, Tensor]]]] = {
    make.__name__: make for make in (t5, bart, m2m100, whisper, picture_to_text)
}


@cache
def case(name: str) -> tuple[Any, dict[str, Tensor], Tensor]:
    """A model, what it reads, and what ``generate`` makes of it."""
    torch.manual_seed(0)
    model, inputs = MODELS[name]()
    model.eval()
    settings = model.generation_config
    settings.eos_token_id, settings.pad_token_id, settings.decoder_start_token_id = None, PAD, START
    loud(model)
    return model, inputs, model.generate(**inputs, **greedy(inputs))


def greedy(inputs: dict[str, Tensor], rows: int = 2) -> dict[str, Any]:
    return {"max_new_tokens": NEW, "do_sample": False, "decoder_input_ids": PROMPTS[:rows]}


def decoded(name: str, how: dict[str, Any], drafter: Any, seed: int | None = None) -> Any:
    """Without a warning: it is not decoded plainly."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", PlainDecodingWarning)
        config = DecodeConfig(drafter=drafter, budget=8, seed=seed)
        return racer.generate(case(name)[0], **how, config=config)


def right(plain: Tensor) -> Drafter:
    """Drafts that are right for a few tokens, and wrong behind them."""
    if plain[0, 0] != START:  # Whisper gives what is new alone
        plain = torch.cat([PROMPTS, plain], dim=1)
    known = {row[1]: row for row in plain.tolist()}

    class Right(ReplayDrafter):
        def grow(self, request: Any, tree: Any) -> None:
            ahead = known[request.prompt[1]][len(request.tokens) :][: 1 + len(request.tokens) % 4]
            tree.add_chain([*ahead, len(request.tokens) % VOCAB])

    return Right(lambda request: [], VOCAB)


@pytest.mark.parametrize("name", MODELS)
def test_texts_behind_an_encoder_are_those_of_generate(name: str) -> None:
    model, inputs, plain = case(name)
    assert probe(model).way == "chain", probe(model).reason
    for rows in (1, 2):
        read = {part: values[:rows] for part, values in inputs.items()}
        how = {**read, **greedy(inputs, rows)}
        expected = model.generate(**how)
        for drafter in (right(plain), HostileDrafter(3, VOCAB), "racer"):
            assert torch.equal(decoded(name, how, drafter), expected)


@pytest.mark.parametrize("name", [name for name in MODELS if name != "whisper"])
def test_drafts_are_accepted_and_sampling_does_not_depend_on_them(name: str) -> None:
    model, inputs, plain = case(name)
    how = {**inputs, **greedy(inputs), "return_dict_in_generate": True}
    expected, got = model.generate(**how), decoded(name, how, right(plain))
    assert torch.equal(got.sequences, expected.sequences)
    assert got.racer_stats.steps < NEW * 3 // 4
    assert got.keys() == expected.keys()
    drawn = [
        decoded(name, {**how, "do_sample": True}, drafter, seed=3).sequences
        for drafter in ("none", HostileDrafter(5, VOCAB), "racer")
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2])


def test_a_row_that_ends_is_filled_with_pad_tokens() -> None:
    model, inputs, plain = case("bart")
    end = int(plain[0, 6])
    how = {**inputs, **greedy(inputs), "eos_token_id": end}
    assert torch.equal(decoded("bart", how, right(plain)), model.generate(**how))


def test_pad_tokens_within_a_text_count_as_the_model_counts_them() -> None:
    """What a model that leaves pad tokens out of its positions makes of one depends on the pass it stands in."""
    model, inputs, _ = case("m2m100")
    found = probe(model)
    assert found.chain is not None
    assert found.chain.alone == PAD

    def often(row: int, ids: Tensor) -> list[int]:
        """Every third token is a pad token."""
        return [PAD] if len(ids) % 3 == 0 else list(range(4, VOCAB))

    how = {**inputs, **greedy(inputs), "prefix_allowed_tokens_fn": often}
    expected = model.generate(**how)
    assert int((expected == PAD).sum()) > 8
    for drafter in (right(expected), HostileDrafter(3, VOCAB)):
        for rows in (1, 2):
            read = {part: values[:rows] for part, values in inputs.items()}
            how = {**read, **greedy(inputs, rows), "prefix_allowed_tokens_fn": often}
            assert torch.equal(decoded("m2m100", how, drafter), model.generate(**how))


@pytest.mark.parametrize("kind", [m2m100, bart])
def test_in_small_types_a_small_float32_model_tells_who_counts_pad_tokens(kind: Any) -> None:
    model, _ = kind()
    found = probe(model.bfloat16().eval())
    assert found.chain is not None
    assert found.chain.alone == (PAD if kind is m2m100 else None)


def test_beams_are_transformers_own() -> None:
    model, inputs, _ = case("t5")
    how = {**inputs, "num_beams": 3, "max_new_tokens": 6}
    with pytest.warns(PlainDecodingWarning, match="num_beams=3"):
        got = racer.generate(model, **how)
    assert torch.equal(got, model.generate(**how))


def test_an_attached_model_with_an_encoder() -> None:
    torch.manual_seed(1)
    model, inputs = t5()
    plain = model.eval().generate(**inputs, max_new_tokens=8, do_sample=False)
    racer.attach(model)
    assert torch.equal(model.generate(**inputs, max_new_tokens=8, do_sample=False), plain)
