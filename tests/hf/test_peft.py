"""Models with adapters, as PEFT wraps them: what is in their layers is decoded with trees, what is in their prompts is
decoded plainly."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig, get_peft_model

import racer
from racer import DecodeConfig
from racer.core.support import probe
from racer.hf.generate import PlainDecodingWarning
from racer.testing import HostileDrafter
from support.tiny_models import VOCAB, alone, batch, tiny

pytestmark = pytest.mark.filterwarnings("ignore:Position ids are not supported for parameter efficient tuning")

HOW = {"max_new_tokens": 20, "do_sample": False, "return_dict_in_generate": True}
VIRTUAL: dict[str, Any] = {"task_type": "CAUSAL_LM", "num_virtual_tokens": 4}
IN_PROMPT = {
    "prompt tuning": PromptTuningConfig(**VIRTUAL),
    "prefix tuning": PrefixTuningConfig(**VIRTUAL),
    "p-tuning": PromptEncoderConfig(**VIRTUAL, encoder_hidden_size=16),
}


def adapted(config: Any) -> Any:
    torch.manual_seed(5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of settings that are of no interest here
        model = get_peft_model(copy.deepcopy(tiny("llama")), config).double().eval()
    for name, part in model.named_parameters():
        if part.requires_grad and "base_layer" not in name:
            torch.nn.init.normal_(part, std=3.0)
    return model


@pytest.mark.parametrize("inputs", [alone(2), batch()], ids=["alone", "batch"])
@pytest.mark.parametrize("config", IN_PROMPT.values(), ids=IN_PROMPT.keys())
def test_what_is_in_the_prompt_is_decoded_plainly(config: Any, inputs: dict[str, torch.Tensor]) -> None:
    model = adapted(config)
    plain = model.generate(**inputs, **HOW).sequences
    if not isinstance(config, PrefixTuningConfig):  # which does not always show
        assert not torch.equal(plain, model.get_base_model().generate(**inputs, **HOW).sequences)
    with pytest.warns(PlainDecodingWarning, match="prepare_inputs_for_generation has been replaced"):
        assert torch.equal(racer.generate(model, **inputs, **HOW).sequences, plain)


def test_the_base_model_is_decoded_with_trees_again() -> None:
    model, inputs = adapted(IN_PROMPT["prompt tuning"]), alone(2)
    with pytest.warns(PlainDecodingWarning, match="prepare_inputs_for_generation has been replaced"):
        racer.generate(model, **inputs, **HOW)
    base = model.get_base_model()
    assert "prepare_inputs_for_generation" in vars(base)  # as PEFT leaves it
    out = racer.generate(base, config=DecodeConfig(drafter=HostileDrafter(1, VOCAB), budget=9), **inputs, **HOW)
    assert out.racer_stats.steps
    assert torch.equal(out.sequences, base.generate(**inputs, **HOW).sequences)


@pytest.mark.parametrize("inputs", [alone(2), batch()], ids=["alone", "batch"])
def test_what_is_in_the_layers_is_decoded_with_trees(inputs: dict[str, torch.Tensor]) -> None:
    model = adapted(LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "down_proj"], r=4))
    plain = model.generate(**inputs, **HOW).sequences
    config = DecodeConfig(drafter=HostileDrafter(1, VOCAB), budget=9)
    out = racer.generate(model, config=config, **inputs, **HOW)
    assert out.racer_stats.steps
    assert torch.equal(out.sequences, plain)
    with model.disable_adapter():
        other = racer.generate(model, config=config, **inputs, **HOW).sequences
        assert torch.equal(other, model.generate(**inputs, **HOW).sequences)
    assert not torch.equal(other, plain)


def test_a_base_model_that_was_probed_first_is_probed_again() -> None:
    model, inputs = adapted(IN_PROMPT["prompt tuning"]), alone(2)
    base = model.get_base_model()
    assert probe(base).plan is not None
    with pytest.warns(PlainDecodingWarning, match="has been replaced"):
        out = racer.generate(model, **inputs, **HOW)
    assert torch.equal(out.sequences, model.generate(**inputs, **HOW).sequences)
    assert probe(base).plan is not None
