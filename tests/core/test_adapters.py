"""LoRA adapters of PEFT: beside the weights, merged into them, taken out again, exchanged."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

import racer
from racer import DecodeConfig
from racer.core.packed_weights import packed_model
from racer.testing import HostileDrafter
from support.tiny_models import SMALL, VOCAB

IDS = torch.tensor([[1, 2, 3, 4]])
CONFIG = DecodeConfig(drafter=HostileDrafter(1, VOCAB), budget=4, pack=True)


def texts(model: Any) -> list[int]:
    """Ours, which is transformers' own."""
    settings = {"max_new_tokens": 20, "do_sample": False}
    ours = racer.generate(model, input_ids=IDS, config=CONFIG, **settings)[0].tolist()
    assert ours == model.generate(input_ids=IDS, **settings)[0].tolist()
    tokens: list[int] = ours
    return tokens


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_adapters_may_come_and_go(dtype: torch.dtype) -> None:
    torch.manual_seed(7)
    model = LlamaForCausalLM(LlamaConfig(**SMALL)).to(dtype).eval()
    for parameter in model.parameters():
        parameter.data.mul_(4)
    bare = texts(model)
    assert packed_model(model)
    settings = LoraConfig(r=2, lora_alpha=16, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    adapted = get_peft_model(model, settings).eval()
    adapted.add_adapter("other", settings)
    beside = texts(model)
    assert beside != bare
    assert packed_model(model), "adapters' layers are packed, too"
    adapted.merge_adapter()
    merged = texts(model)
    assert merged != bare
    adapted.unmerge_adapter()
    texts(model)
    adapted.set_adapter("other")
    assert texts(model) not in (bare, beside)
    with adapted.disable_adapter():
        texts(model)
