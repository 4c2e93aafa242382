"""What cannot be right is refused, and the refusal names the mend."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import racer
from racer import DecodeConfig, Decoder
from racer.errors import ConfigError, UnsupportedGeneration, UnsupportedModel
from racer.testing import toy_model
from support.toy_batch import BATCH, GREEDY, IDS, MODEL, VOCAB, Collects, same


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"num_beams": 3}, "num_beams=3"),
        ({"output_scores": True, "return_dict_in_generate": True}, "output_scores"),
        ({"output_attentions": True, "return_dict_in_generate": True}, "output_attentions"),
        ({"prompt_lookup_num_tokens": 3}, "another decoding method"),
        ({"assistant_model": MODEL}, "another decoding method"),
        ({"stop_strings": ["x"]}, "pass tokenizer"),
        ({"attention_mask": torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])}, "padding_side='left'"),
        ({"attention_mask": torch.tensor([[1, 0, 1, 1], [1, 1, 1, 1]])}, "padding_side='left'"),
    ],
)
def test_what_has_no_meaning_here_is_refused(how: dict[str, Any], reason: str) -> None:
    with pytest.raises(UnsupportedGeneration, match=reason):
        racer.generate(MODEL, **({"input_ids": IDS, "pad_token_id": 0, "max_new_tokens": 5, "do_sample": False} | how))


@pytest.mark.parametrize(("verifier", "do_sample"), [("greedy", True), ("sampling", False)])
def test_verifiers_that_contradict_the_call(verifier: str, do_sample: bool) -> None:
    with pytest.raises(ConfigError, match="leave the verifier to 'auto'"):
        racer.generate(
            MODEL, config=DecodeConfig(verifier=verifier), input_ids=IDS, max_new_tokens=5, do_sample=do_sample
        )


def test_models_that_must_be_prepared_otherwise() -> None:
    model = toy_model(VOCAB)
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(UnsupportedModel, match="attn_implementation='sdpa'"):
        Decoder(model)
    model.config._attn_implementation = "sdpa"
    with pytest.raises(UnsupportedModel, match=r"model\.eval"):
        racer.attach(model.train())


def test_positions_that_are_not_counted_up_are_refused() -> None:
    usual = torch.tensor([[0, 1, 2, 3], [1, 1, 0, 1]])
    same(**BATCH, max_new_tokens=5, position_ids=usual)
    with pytest.raises(UnsupportedGeneration, match="position_ids"):
        racer.generate(MODEL, **BATCH, max_new_tokens=5, position_ids=usual * 2, do_sample=False)


@pytest.mark.parametrize(
    ("how", "reason"),
    [({"streamer": Collects()}, "one prompt at a time"), ({"guidance_scale": 1.5}, "one prompt at a time")],
)
def test_what_cannot_be_right_for_a_batch_is_refused(how: dict[str, Any], reason: str) -> None:
    with pytest.raises(UnsupportedGeneration, match=reason):
        racer.generate(MODEL, **BATCH, max_new_tokens=5, do_sample=False, **how)


def test_a_decoder_has_its_own_configuration() -> None:
    with pytest.raises(ConfigError, match="its own configuration"):
        racer.generate(Decoder(MODEL, GREEDY), config=DecodeConfig(), input_ids=IDS)
