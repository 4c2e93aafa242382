"""Packed weights: the same products, and never an old weight's."""

from __future__ import annotations

import gc
import threading
import warnings
import weakref
from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from racer import DecodeConfig, Decoder
from racer.config import ConfigError
from racer.core.packed_weights import (
    PackedLinear,
    PackedModel,
    PackingWarning,
    _models,
    _sample,
    is_packed,
    pack,
    unpack,
)
from racer.engine.static.pool import fingerprint
from racer.testing import HostileDrafter, decode, decode_plainly
from support.tiny_models import SMALL, VOCAB


def a_model(dtype: torch.dtype) -> Any:
    torch.manual_seed(7)
    model = LlamaForCausalLM(LlamaConfig(**SMALL, attention_bias=True)).to(dtype).eval()
    for parameter in model.parameters():
        parameter.data.mul_(4)
    return model


def multiplies(layer: nn.Linear, rows: torch.Tensor) -> bool:
    """Whether the layer's packed weight gives what the layer does."""
    packed = PackedModel()
    packed.refresh(layer)
    plain = layer(rows)
    with packed.used():
        assert "forward" in vars(layer)
        product = layer(rows)
    assert "forward" not in vars(layer)
    return torch.allclose(product.float(), plain.float(), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_products_are_the_layers(dtype: torch.dtype, bias: bool) -> None:
    for rows in (1, 3, 24, 200):
        layer = nn.Linear(70, 50, bias=bias, dtype=dtype)
        assert multiplies(layer, torch.randn(2, rows, 70, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_decoding_with_packed_weights(dtype: torch.dtype) -> None:
    model, prompts = a_model(dtype), [[1, 2, 3, 4], [5, 6]]
    config = DecodeConfig(drafter=HostileDrafter(1, VOCAB), budget=7, pack=True)
    got, _ = decode(Decoder(model, config), prompts, 24)
    assert len(_models[model]._packed) == 2 * 7 + 1
    assert got == decode_plainly(model, prompts, 24)
    assert not any("forward" in vars(module) for module in model.modules())


def exchanged(model: Any) -> None:
    layer = model.model.layers[1].mlp.up_proj
    layer.weight = nn.Parameter(layer.weight.detach() * -1)


def counted(model: Any) -> None:
    with torch.no_grad():
        model.model.layers[0].self_attn.q_proj.weight.add_(0.25)


def unseen(model: Any) -> None:
    model.lm_head.weight.data.add_(torch.linspace(-1, 1, VOCAB, dtype=model.dtype)[:, None])  # as adapters are merged


def one_token(model: Any) -> None:
    model.lm_head.weight.data[7] = 3.0  # most likely from now on, and nobody is told


@pytest.mark.parametrize("change", [exchanged, counted, unseen, one_token])
def test_changed_weights_are_packed_again(change: Any) -> None:
    model = a_model(torch.float32)
    decoder = Decoder(model, DecodeConfig(drafter=HostileDrafter(1, VOCAB), budget=7, pack=True))
    before, _ = decode(decoder, [[1, 2, 3]], 24)
    packed = dict(_models[model]._packed)
    change(model)
    after, _ = decode(decoder, [[1, 2, 3]], 24)
    assert after == decode_plainly(model, [[1, 2, 3]], 24) != before
    fresh = [layer for layer, held in _models[model]._packed.items() if held is not packed[layer]]
    assert len(fresh) == 1


def test_layers_that_do_something_else_are_left_alone() -> None:
    class Doubles(nn.Linear):
        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(rows)

    hooked, other = nn.Linear(4, 4), nn.Linear(4, 4)
    other.forward = lambda rows: rows + 1  # type: ignore[method-assign]  # as accelerate does
    hooked.register_forward_hook(lambda _, __, output: output * 3)
    model = nn.Sequential(Doubles(4, 4), hooked, other, nn.Linear(4, 4, dtype=torch.float64))
    packed = PackedModel()
    packed.refresh(model)
    assert set(packed._packed) == {hooked}
    rows = torch.randn(2, 4)
    with torch.no_grad(), packed.used():
        torch.testing.assert_close(model[:3](rows), 3 * hooked.forward(model[0](rows)) + 1)


def test_an_error_gives_the_layers_back() -> None:
    model = a_model(torch.float32)
    decoder = Decoder(model, DecodeConfig(drafter="none", pack=True))

    def fails(*_: Any) -> None:
        assert "forward" in vars(model.lm_head)
        raise RuntimeError("out of memory")

    model.model.layers[1].register_forward_pre_hook(fails)
    with pytest.raises(RuntimeError, match="out of memory"):
        decode(decoder, [[1, 2, 3]], 5)
    assert not any("forward" in vars(module) for module in model.modules())


def test_where_it_cannot_be_done_it_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any) -> None:
        raise RuntimeError("no kernels")

    monkeypatch.setattr(PackedLinear, "of", missing)
    model = a_model(torch.float32)
    with pytest.warns(PackingWarning, match=r"without packed weights: torch cannot do it here \(no kernels\)"):
        pack(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pack(model)
    assert model not in _models
    got, _ = decode(Decoder(model, DecodeConfig(drafter="none", pack=True)), [[1, 2, 3]], 9)
    assert got == decode_plainly(model, [[1, 2, 3]], 9)
    with pytest.warns(PackingWarning, match="no linear layers in bf16 or float32"):
        pack(a_model(torch.float64))


def test_packed_weights_go_with_their_model() -> None:
    model = a_model(torch.float32)
    pack(model)
    first = weakref.ref(_models[model])
    pack(model)
    assert _models[model] is first()
    unpack(model)
    assert first() is None, "nobody else holds them"
    pack(model)
    alive = weakref.ref(model)
    assert alive in _models.keyrefs()
    del model
    gc.collect()
    assert alive() is None
    assert alive not in _models.keyrefs()


def test_threads_may_share_a_model() -> None:
    model = a_model(torch.float32)
    plain = decode_plainly(model, [[1, 2, 3]], 40)
    results: list[Any] = []

    def work(seed: int) -> None:
        decoder = Decoder(model, DecodeConfig(drafter=HostileDrafter(seed, VOCAB), budget=7, pack=seed < 3))
        results.append(decode(decoder, [[1, 2, 3]], 40)[0])

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [plain] * 4
    assert not any("forward" in vars(module) for module in model.modules())


def test_a_model_that_has_become_packable_is_packed() -> None:
    model = a_model(torch.float64)
    with pytest.warns(PackingWarning, match="no linear layers in bf16 or float32"):
        pack(model)
    pack(model.to(torch.bfloat16))
    assert model in _models


def test_gradients_and_autocast_take_the_layers_own_way() -> None:
    layer, rows, packed = nn.Linear(64, 32), torch.randn(2, 64), PackedModel()
    packed.refresh(layer)
    with packed.used():
        layer(rows).sum().backward()
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            assert layer(rows).dtype == torch.bfloat16
    assert layer.weight.grad is not None


@pytest.mark.parametrize("shape", [(64, 64), (576, 1536), (49152, 576), (3, 5), (1, 1), (7, 4096)])
def test_samples_come_from_all_over(shape: tuple[int, int]) -> None:
    places = _sample(torch.arange(shape[0] * shape[1]).view(shape))
    rows, columns = places // shape[1], places % shape[1]
    assert set(rows.tolist()) == set(range(shape[0])), "an edited token shows"
    assert len(set(columns.tolist())) >= min(shape)
    assert len(places) <= 2 * shape[0] + shape[1]


def test_a_static_stage_does_not_notice_packing() -> None:
    model = a_model(torch.float32)
    pack(model)
    before = fingerprint(model)
    with _models[model].used():
        assert fingerprint(model) == before


@pytest.mark.parametrize("wrong", [1, "yes", None])
def test_other_choices_are_refused(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="pack must be True, False or 'auto'"):
        DecodeConfig(pack=wrong)


@pytest.mark.parametrize(("dtype", "most", "packs"), [
    (torch.float32, None, True), (torch.bfloat16, None, True),
    (torch.float64, None, False), (torch.float32, 1000, False),
])  # fmt: skip
def test_small_models_are_packed_without_being_asked(
    dtype: torch.dtype, most: int | None, packs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if most is not None:
        monkeypatch.setattr("racer.core.packed_weights.SMALL", most)
    model = a_model(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error", PackingWarning)
        got, _ = decode(Decoder(model, DecodeConfig(drafter="none")), [[1, 2, 3]], 8)
    assert (model in _models) is packs
    assert got == decode_plainly(model, [[1, 2, 3]], 8)
    if most is not None:
        assert pack(model, True), "who asks for it gets it"
        assert not pack(model, "auto")


def test_a_model_that_has_changed_is_judged_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    model = a_model(torch.bfloat16)
    size = sum(module.weight.nbytes for module in model.modules() if isinstance(module, nn.Linear))
    monkeypatch.setattr("racer.core.packed_weights.SMALL", size)
    assert pack(model, "auto")
    assert is_packed(model)
    assert not pack(model.float(), "auto"), "twice as large"
    assert not is_packed(model), "the copies of what it was are gone"
    assert not pack(model.double(), "auto")
    assert pack(model.bfloat16(), "auto")


def test_both_choices_of_one_model_are_remembered() -> None:
    model = a_model(torch.float64)
    with pytest.warns(PackingWarning):
        pack(model, True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for choice in ("auto", True, "auto", True):
            assert not pack(model, choice)


def test_no_memory_for_it_is_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    model = a_model(torch.float32)
    assert pack(model)
    counted(model)

    def fails(*_: Any) -> None:
        raise RuntimeError("not enough memory: you tried to allocate 7 bytes")

    monkeypatch.setattr(PackedLinear, "of", fails)
    with pytest.warns(PackingWarning, match="not enough memory"):
        got, _ = decode(Decoder(model, DecodeConfig(drafter="none", pack=True)), [[1, 2, 3]], 9)
    assert got == decode_plainly(model, [[1, 2, 3]], 9)
    assert not is_packed(model)


def test_models_that_torch_compiles_are_left_alone() -> None:
    model = a_model(torch.float32)
    model.compile(backend="eager")
    assert not pack(model, "auto")
