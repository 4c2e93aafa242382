"""Layers that multiply in few bits give what their numbers say, and models of them decode as they do plainly."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

import racer
from racer.core.kept_layers import KeptEmbedding, KeptLinear
from racer.core.kept_weights import INT4, INT8, GroupedNumbers, KeptWeight, quantised
from racer.core.logit_error import fault_of
from racer.kernels.native.few_bits import Format
from racer.kernels.native.packed import available
from racer.loading import keeping
from racer.loading.loaded_model import LoadedModel
from racer.serve.prompts import vocab_size
from support.loud_llama import loud

pytestmark = pytest.mark.skipif(not available(), reason="the processor has no dot products of bytes")

FORMATS = [
    Format(4, 32, 8, False, True), INT4, Format(5, 32, 16, False, True), Format(5, 32, 0, True, True), INT8,
    Format(4, 32, 0, True, False), Format(5, 32, 0, True, False), Format(6, 16, 32, False, False),
]  # fmt: skip


def small_llama() -> Any:
    """Two layers, and texts that are not all alike."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=160, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=32, attention_bias=True, pad_token_id=None,
    )  # fmt: skip
    return loud(LlamaForCausalLM(config), 15)


def grouped(kept: Format, outputs: int, inputs: int, seed: int = 0) -> GroupedNumbers:
    random = np.random.default_rng(seed)
    groups = (outputs, inputs // kept.group)

    def some(low: float, high: float) -> Any:
        return random.uniform(low, high, groups).astype(np.float16).astype(np.float32)

    numbers = random.integers(0, 1 << kept.bits, (outputs, inputs), dtype=np.uint8)
    return GroupedNumbers(kept, numbers, some(-0.1, 0.1), some(-0.5, 0.5) if kept.least else None)


@pytest.mark.parametrize("kept", FORMATS, ids=str)
@given(
    outputs=st.integers(1, 40),
    units=st.integers(1, 4),
    rows=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    bias=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_products_are_those_of_the_numbers(
    kept: Format, outputs: int, units: int, rows: list[int], bias: bool, dtype: torch.dtype
) -> None:
    whole = grouped(kept, outputs, 32 * units, outputs)
    weight = torch.from_numpy(whole.dequantised())
    held = KeptWeight(whole)
    assert torch.equal(held.dequantised(), weight)
    added = torch.randn(outputs) if bias else None
    layer, given_rows = KeptLinear(held, added), torch.randn(*rows, 32 * units).to(dtype)
    assert torch.equal(layer.weight, weight)
    with torch.no_grad():
        got, exact = (
            layer(given_rows),
            F.linear(given_rows.double(), weight.double(), None if added is None else added.double()),
        )
    assert got.dtype == dtype
    assert got.shape == exact.shape
    bound = given_rows.double().abs() @ weight.double().abs().t() * 2**-11 + 1e-5
    if dtype == torch.bfloat16:
        bound = bound + exact.abs() * 2**-8
    assert ((got.double() - exact).abs() <= bound).all()


@pytest.mark.parametrize("kept", FORMATS, ids=str)
def test_embeddings_look_rows_up(kept: Format) -> None:
    whole = grouped(kept, 37, 64)
    layer, tokens = KeptEmbedding(KeptWeight(whole), torch.float32), torch.tensor([[0, 36, 5], [17, 17, 1]])
    assert torch.equal(layer(tokens), F.embedding(tokens, torch.from_numpy(whole.dequantised())))
    assert layer(tokens[:, :0]).shape == (2, 0, 64)
    for wrong in (37, -1):
        with pytest.raises(IndexError):
            layer(torch.tensor([wrong]))


@pytest.mark.parametrize(("kept", "share"), [(INT8, 1 / 250), (INT4, 1 / 29)], ids=["int8", "int4"])
def test_plain_weights_are_rounded_to_the_nearest(kept: Format, share: float) -> None:
    weight = torch.randn(24, 96)
    weight[3] = 0
    weight[4, :32] = 2.5
    error = (torch.from_numpy(quantised(weight, kept).dequantised()) - weight).view(24, 3, 32).abs().amax(-1)
    groups = weight.view(24, 3, 32)
    width = 2 * groups.abs().amax(-1) if kept is INT8 else groups.amax(-1) - groups.amin(-1)
    assert (error <= width * share + groups.abs().amax(-1) * 2**-10).all()


def test_gradients_go_through_the_numbers() -> None:
    whole = grouped(INT8, 16, 32)
    rows = torch.randn(2, 32, requires_grad=True)
    KeptLinear(KeptWeight(whole))(rows).sum().backward()
    assert rows.grad is not None
    torch.testing.assert_close(rows.grad[0], torch.from_numpy(whole.dequantised()).sum(0))


@pytest.mark.parametrize("which", ["numbers", "scales", "bias"])
def test_what_is_exchanged_is_read_from_then_on(which: str) -> None:
    def layer_of(seed: int) -> KeptLinear:
        torch.manual_seed(seed)
        return KeptLinear(KeptWeight(quantised(torch.randn(32, 64), INT8)), torch.randn(32))

    layer, other, rows = layer_of(0), layer_of(1), torch.randn(3, 64)
    before = layer(rows)
    if which == "bias":
        layer.bias = other.bias
    else:
        setattr(layer.held, which, getattr(other.held, which))
    wanted = F.linear(rows, layer.weight, layer.bias)
    assert not torch.allclose(before, wanted, atol=0.1)
    torch.testing.assert_close(layer(rows), wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("choice", ["int8", "int4"])
def test_models_decode_as_they_do_plainly(choice: str) -> None:
    model = small_llama()
    assert keeping.make(model, choice) == 15
    assert not any(type(module) is nn.Linear for module in model.modules())
    prompt = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])
    plain = model.generate(prompt, max_new_tokens=48, do_sample=False)
    for drafter in ("none", "racer"):
        config_ = racer.DecodeConfig(drafter=drafter, budget=16)
        ours = racer.generate(model, prompt, config=config_, max_new_tokens=48, do_sample=False)
        assert torch.equal(ours, plain)
    batch = torch.tensor([[3, 1, 4, 1], [2, 7, 1, 8]])
    plain = model.generate(batch, max_new_tokens=24, do_sample=False)
    assert torch.equal(racer.generate(model, batch, max_new_tokens=24, do_sample=False), plain)


def test_what_few_bits_round_is_no_fault() -> None:
    model, plain = small_llama(), small_llama()
    keeping.make(model, "int4")
    assert fault_of(plain, 0.005)
    assert not fault_of(model, 0.005)
    assert fault_of(model, 0.05)


def test_nobody_unpacks_a_weight_to_look_at_its_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was done six times a call, and took longer than a prompt of 500 tokens."""
    model = small_llama()
    keeping.make(model, "int8")
    prompt = torch.tensor([[3, 1, 4, 1, 5]])
    racer.generate(model, prompt, max_new_tokens=4, do_sample=False)
    monkeypatch.setattr(KeptWeight, "dequantised", lambda *_: pytest.fail("unpacked"))
    racer.generate(model, prompt, max_new_tokens=8, do_sample=False)
    assert vocab_size(LoadedModel(model, None, "small")) == 160


def test_what_was_kept_is_read_again(tmp_path: Path) -> None:
    model = small_llama()
    again = copy.deepcopy(model)
    for choice in ("int8", "int4"):
        made, same = copy.deepcopy(model), copy.deepcopy(again)
        keeping.make(made, choice)
        keeping.save(made, tmp_path / choice)
        keeping.restore(same, tmp_path / choice)
        tokens = torch.tensor([[3, 1, 4, 1, 5]])
        with torch.no_grad():
            assert torch.equal(made(tokens).logits, same(tokens).logits)
        assert [type(part) for part in made.modules()] == [type(part) for part in same.modules()]


@pytest.mark.parametrize("choice", ["int8", "int4"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
@torch.no_grad()
def test_a_model_that_is_given_another_dtype_keeps_its_numbers(choice: str, dtype: torch.dtype) -> None:
    """Scales of another type were read as if they were of the old one, past their end or as garbage."""
    model = small_llama()
    keeping.make(model, choice)
    embedding = model.model.embed_tokens
    model.model.embed_tokens = KeptEmbedding(KeptWeight(quantised(embedding.weight, INT8)), embedding.weight.dtype)
    tokens = torch.tensor([[3, 1, 4, 1, 5]])
    before = model(tokens).logits
    after = model.to(dtype)(tokens).logits
    assert after.dtype == dtype
    torch.testing.assert_close(after.float(), before, rtol=0.1, atol=0.1 * float(before.std()))
    if dtype is torch.float32:
        assert torch.equal(after, before)
    how: dict[str, Any] = {"max_new_tokens": 12, "do_sample": False}
    assert torch.equal(racer.generate(model, tokens, **how), model.generate(tokens, **how))
    assert torch.equal(model.float()(tokens).logits, before) or dtype not in (torch.float32, torch.float64)


def test_where_few_bits_cannot_go_is_said() -> None:
    model = small_llama()
    keeping.make(model, "int8")
    with pytest.raises(RuntimeError, match="cannot go to meta: load the model with device='meta'"):
        model.to("meta")


@pytest.mark.parametrize("choice", ["int8", "int4"])
@torch.no_grad()
def test_a_model_in_few_bits_is_saved_as_a_plain_one(choice: str, tmp_path: Path) -> None:
    """Its linear layers were left out, and loaded as noise."""
    model = small_llama()
    keeping.make(model, choice)
    model.save_pretrained(tmp_path)
    again = LlamaForCausalLM.from_pretrained(tmp_path).eval()
    tokens = torch.tensor([[3, 1, 4, 1, 5]])
    torch.testing.assert_close(again(tokens).logits, model(tokens).logits, rtol=0.1, atol=0.02)
    assert torch.equal(again.lm_head.weight, model.lm_head.weight)
    assert torch.equal(again.model.layers[1].self_attn.q_proj.bias, model.model.layers[1].self_attn.q_proj.bias[:64])
    assert not model.state_dict().keys() ^ again.state_dict().keys()
