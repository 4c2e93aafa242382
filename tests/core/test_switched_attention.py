"""Attention that takes no tree mask: its model's twin scores trees with sdpa, or transformers decodes."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import transformers.integrations.flex_attention as integration
from torch.nn.attention import flex_attention
from transformers import Gemma2Config, Gemma2ForCausalLM, Lfm2Config, Lfm2ForCausalLM

import racer
from racer import DecodeConfig
from racer.core.support import probe
from racer.hf.plain import PlainDecodingWarning
from racer.testing.trees import HostileDrafter
from support.loud_llama import IDS, MASK, SIZES, VOCAB, llama, loud
from support.versions import recent

pytestmark = pytest.mark.filterwarnings("ignore:_compile flag:DeprecationWarning")
HOW: dict[str, Any] = {"max_new_tokens": 14, "do_sample": False, "pad_token_id": 0, "return_dict_in_generate": True}


@pytest.fixture(autouse=True)
def _not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch compiles flex attention, which few CPUs' compilers take; what it computes is the same."""
    monkeypatch.setattr(flex_attention, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True, raising=False)
    monkeypatch.setattr(integration.torch, "compile", lambda function=None, **_: function)


def flex(model: Any) -> Any:
    model.set_attn_implementation("flex_attention")
    return model


def of_rows(rows: int) -> dict[str, Any]:
    return {"input_ids": IDS[-rows:], "attention_mask": MASK[-rows:]}


@pytest.mark.parametrize("drafter", ["racer", HostileDrafter(3, VOCAB)], ids=["racer", "hostile"])
def test_trees_are_scored_with_sdpa_in_place_of_flex_attention(drafter: Any) -> None:
    model = flex(llama())
    found = probe(model)
    assert found.plan is not None, found.reason
    assert found.plan.switched
    for rows in (1, 2):
        expected = model.generate(**of_rows(rows), **HOW)
        with warnings.catch_warnings():
            warnings.simplefilter("error", PlainDecodingWarning)
            got = racer.generate(model, **of_rows(rows), **HOW, config=DecodeConfig(drafter=drafter, budget=8))
        assert torch.equal(got.sequences, expected.sequences)
    assert model.config._attn_implementation == "flex_attention"


def test_static_shapes_are_for_attention_that_takes_trees() -> None:
    model = flex(llama())
    expected = model.generate(**of_rows(2), **HOW)
    got = racer.generate(model, **of_rows(2), **HOW, config=DecodeConfig(budget=8, compile="static"))
    assert torch.equal(got.sequences, expected.sequences)


def test_where_sdpa_cannot_be_put_in_its_place_the_mend_is_said() -> None:
    model = flex(llama())
    inner = model.model.layers[0].forward
    model.model.layers[0].forward = lambda *args, **kwargs: inner(*args, **kwargs)
    assert "load the model with attn_implementation='sdpa'" in (probe(model).tree_reason or probe(model).reason)
    expected = model.generate(**of_rows(1), **HOW)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PlainDecodingWarning)
        assert torch.equal(racer.generate(model, **of_rows(1), **HOW).sequences, expected.sequences)


@recent("convolutions start anew, and decode plainly")
def test_chains_are_scored_by_the_model_itself() -> None:
    config = Lfm2Config(**SIZES, layer_types=["conv", "full_attention"] * 2, block_auto_adjust_ff_dim=False)
    torch.manual_seed(0)
    model = flex(loud(Lfm2ForCausalLM(config)))
    assert probe(model).way == "chain", probe(model).reason
    expected = model.generate(**of_rows(1), **HOW)
    got = racer.generate(model, **of_rows(1), **HOW, config=DecodeConfig(drafter=HostileDrafter(3, VOCAB), budget=8))
    assert torch.equal(got.sequences, expected.sequences)


@recent("its chains and flex attention")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_caps_of_attention_are_not_left_out(dtype: torch.dtype) -> None:
    """sdpa has none; in 16 bits what a cap changes may be as small as rounding."""
    sizes = SIZES | {"query_pre_attn_scalar": 16, "attn_logit_softcapping": 50.0}
    torch.manual_seed(0)
    model = flex(loud(Gemma2ForCausalLM(Gemma2Config(**sizes, layer_types=["full_attention"] * 4)))).to(dtype)
    found = probe(model)
    assert found.plan is None
    assert "knows no softcap" in (found.tree_reason or found.reason)
    expected = model.generate(**of_rows(1), **HOW)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PlainDecodingWarning)
        got = racer.generate(model, **of_rows(1), **HOW, config=DecodeConfig(drafter=HostileDrafter(3, VOCAB)))
    assert torch.equal(got.sequences, expected.sequences)
