"""What cannot be verified with trees is decoded plainly, and a model that changed is examined anew."""

from __future__ import annotations

import pytest
import torch
from transformers import FalconConfig, FalconForCausalLM, LlamaConfig, LlamaForCausalLM, MambaConfig, MambaForCausalLM

import racer
from racer.core.support import probe
from racer.hf.generate import PlainDecodingWarning
from support.tiny_models import SMALL, VOCAB, alone


def test_models_that_cannot_take_trees_are_decoded_plainly() -> None:
    """Falcon's ALiBi ignores position ids: the trial tree shows it, nobody has to know."""
    torch.manual_seed(1)
    config = FalconConfig(
        vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, alibi=True, pad_token_id=0,
        eos_token_id=None,
    )  # fmt: skip
    model = FalconForCausalLM(config).double().eval()
    with pytest.warns(UserWarning, match="takes no trees"):
        got = racer.generate(model, **alone(1), max_new_tokens=12, do_sample=False)
    assert torch.equal(got, model.generate(**alone(1), max_new_tokens=12, do_sample=False))
    with pytest.raises(racer.RacerError, match="cannot be verified with trees"):
        racer.Decoder(model)


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_rotary_embeddings_that_depend_on_length_are_decoded_plainly(kind: str) -> None:
    rope = {"rope_type": kind, "rope_theta": 10000.0, "factor": 2.0, "original_max_position_embeddings": 32}
    if kind == "longrope":
        rope |= {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    model = LlamaForCausalLM(LlamaConfig(**SMALL, rope_parameters=rope)).double().eval()
    with pytest.warns(PlainDecodingWarning, match=f"'{kind}' rotary embedding"):
        out = racer.generate(model, **alone(2), max_new_tokens=40, do_sample=False, return_dict_in_generate=True)
    assert torch.equal(out.sequences, model.generate(**alone(2), max_new_tokens=40, do_sample=False))
    assert out.racer_stats is None


def test_stateful_models_are_decoded_plainly() -> None:
    torch.manual_seed(2)
    model = MambaForCausalLM(
        MambaConfig(
            vocab_size=VOCAB, hidden_size=16, num_hidden_layers=2, state_size=4, pad_token_id=0, eos_token_id=None
        )
    ).eval()
    with pytest.warns(PlainDecodingWarning, match="takes no trees"):
        got = racer.generate(model, **alone(1), max_new_tokens=12, do_sample=False)
    assert torch.equal(got, model.generate(**alone(1), max_new_tokens=12, do_sample=False))


def test_a_resized_model_is_examined_anew() -> None:
    torch.manual_seed(4)
    model = LlamaForCausalLM(LlamaConfig(**SMALL)).double().eval()
    assert probe(model).vocab_size == VOCAB
    model.resize_token_embeddings(VOCAB + 5, mean_resizing=False)
    assert probe(model).vocab_size == VOCAB + 5
