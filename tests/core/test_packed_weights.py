"""Packed weights: the same products, and never an old weight's."""

from __future__ import annotations

import gc
import threading
import warnings
import weakref
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from racer import DecodeConfig, Decoder
from racer.config import ConfigError
from racer.core.fast_linear import twin_of_layer
from racer.core.few_rows import FewRows, Looks
from racer.core.model_state import _states, release
from racer.core.packed_weights import WORTH, PackedModel, PackingWarning, pack, packed_model
from racer.core.products import by_packed
from racer.core.twin import twin_of
from racer.engine.static.pool import fingerprint
from racer.errors import UnsupportedModel
from racer.testing import HostileDrafter, decode, decode_plainly
from support.tiny_models import SMALL, VOCAB
from support.ways import listen_within, take


@pytest.fixture(autouse=True)
def _packed_copies_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where another way is faster."""
    take(monkeypatch, by_packed)


def twin_with(store: PackedModel, layer: nn.Module) -> Any:
    return twin_of_layer(FewRows(), store, Looks(), layer)


def packed_of(model: Any) -> PackedModel:
    packed = packed_model(model)
    assert packed is not None
    return packed


def a_model(dtype: torch.dtype) -> Any:
    torch.manual_seed(7)
    model = LlamaForCausalLM(LlamaConfig(**SMALL, attention_bias=True)).to(dtype).eval()
    for parameter in model.parameters():
        parameter.data.mul_(4)
    return model


def filled(model: Any) -> PackedModel:
    """The packed weights of all its layers, as a call leaves them."""
    packed = pack(model)
    assert packed is not None
    for layer in model.modules():
        if type(layer) is nn.Linear:
            packed.current(layer)
    return packed


def multiplies(layer: nn.Linear, rows: torch.Tensor) -> bool:
    """Whether the layer's packed weight gives what the layer does."""
    packed = PackedModel("one")
    twin = twin_with(packed, layer)
    assert twin is not None
    plain = layer(rows)
    assert torch.equal(twin(rows), plain), "the first product is the layer's own"
    assert len(packed) == 1
    product = twin(input=rows)
    assert "forward" not in vars(layer)
    return torch.allclose(product.float(), plain.float(), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_products_are_the_layers(dtype: torch.dtype, bias: bool) -> None:
    for rows in (1, 3, 24, 128):
        layer = nn.Linear(70, 50, bias=bias, dtype=dtype)
        assert multiplies(layer, torch.randn(2, rows, 70, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_decoding_with_packed_weights(dtype: torch.dtype) -> None:
    model, prompts = a_model(dtype), [[1, 2, 3, 4], [5, 6]]
    config = DecodeConfig(drafter=HostileDrafter(1, VOCAB), budget=7, pack=True)
    got, _ = decode(Decoder(model, config), prompts, 24)
    assert len(packed_of(model)._packed) == 2 * 7 + 1
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
    packed = dict(packed_of(model)._packed)
    change(model)
    after, _ = decode(decoder, [[1, 2, 3]], 24)
    assert after == decode_plainly(model, [[1, 2, 3]], 24) != before
    fresh = [layer for layer, held in packed_of(model)._packed.items() if held is not packed[layer]]
    assert len(fresh) == 1


def test_layers_that_do_something_else_are_left_alone() -> None:
    class Doubles(nn.Linear):
        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(rows)

    good, elsewhere = nn.Linear(4, 4), nn.Linear(4, 4, device="meta")
    model = nn.Sequential(Doubles(4, 4), good, nn.Linear(4, 4, dtype=torch.float64), elsewhere, nn.Linear(4, 0))
    packed = PackedModel("one")
    twin, rows = twin_of(model, partial(twin_with, packed)), torch.randn(2, 4)
    assert twin is not None
    assert [mine is own for mine, own in zip(twin, model, strict=True)] == [True, False, True, True, True]
    with torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(twin[:2](rows), model[:2](rows))
    assert set(packed._packed) == {good}


@pytest.mark.parametrize("way", ["hook", "pre-hook", "replaced"])
def test_models_with_somebody_elses_code_in_them_are_left_alone(way: str) -> None:
    model = a_model(torch.float32)
    layer = model.model.layers[0].mlp.up_proj
    if way == "hook":
        layer.register_forward_hook(lambda _, __, output: output * 3)
    elif way == "pre-hook":
        layer.register_forward_pre_hook(lambda *_: None)
    else:
        layer.forward = lambda rows: rows @ layer.weight.T + 1  # as accelerate does
    with pytest.warns(PackingWarning, match="hooks|was replaced"):
        assert not pack(model)
    if way != "replaced":
        with pytest.raises(UnsupportedModel, match="forward hook"):
            Decoder(model)
        return
    decoder = Decoder(model, DecodeConfig(drafter=HostileDrafter(1, VOCAB), budget=7))
    got, _ = decode(decoder, [[1, 2, 3]], 24)
    assert got == decode_plainly(model, [[1, 2, 3]], 24)
    assert packed_model(model) is None


def test_an_error_leaves_the_layers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model = a_model(torch.float32)
    decoder = Decoder(model, DecodeConfig(drafter="none", pack=True))

    def fails(*_: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr("torch.nn.functional.silu", fails)
    monkeypatch.setattr("racer.core.fast_parts.passed", fails)
    with pytest.raises(RuntimeError, match="out of memory"):
        decode(decoder, [[1, 2, 3]], WORTH)
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@torch.no_grad()
def test_odd_rows_are_multiplied_as_ever(dtype: torch.dtype) -> None:
    layer, packed = nn.Linear(6, 4, dtype=dtype), PackedModel("one")
    twin = twin_with(packed, layer)
    assert twin is not None
    for rows in (torch.randn(2, 6), torch.randn(6), torch.randn(0, 6), torch.randn(6, 3).T, torch.randn(1, 2, 3, 6)):
        given = rows.to(dtype)
        for _ in range(2):
            torch.testing.assert_close(twin(given), layer(given), rtol=2e-2, atol=2e-2)
    with pytest.raises(RuntimeError):
        twin(torch.randn(2, 6, dtype=torch.float64))


def test_weights_whose_changes_are_not_counted_are_left_alone() -> None:
    with torch.inference_mode():
        layer = nn.Linear(6, 4)
    assert twin_with(PackedModel("one"), layer) is None


def test_short_calls_are_not_worth_it() -> None:
    model = a_model(torch.float32)
    decoder = Decoder(model, DecodeConfig(drafter=HostileDrafter(1, VOCAB), budget=7, pack=True))
    decode(decoder, [[1, 2, 3]], WORTH - 1)
    assert packed_model(model) is None
    decode(decoder, [[1, 2, 3]], WORTH)
    assert packed_model(model)
    counted(model)
    assert decode(decoder, [[1, 2, 3]], WORTH - 1)[0] == decode_plainly(model, [[1, 2, 3]], WORTH - 1)


def test_where_it_cannot_be_done_it_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any) -> None:
        raise RuntimeError("no kernels")

    monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", missing)
    model = a_model(torch.float32)
    with pytest.warns(PackingWarning, match=r"without packed weights: torch cannot do it here \(no kernels\)"):
        pack(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pack(model)
    assert packed_model(model) is None
    got, _ = decode(Decoder(model, DecodeConfig(drafter="none", pack=True)), [[1, 2, 3]], 9)
    assert got == decode_plainly(model, [[1, 2, 3]], 9)
    with pytest.warns(PackingWarning, match="no linear layers in bf16 or float32"):
        pack(a_model(torch.float64))


def test_packed_weights_go_with_their_model() -> None:
    model = a_model(torch.float32)
    first = weakref.ref(filled(model))
    pack(model)
    assert packed_of(model) is first()
    release(model)
    assert first() is None, "nobody else holds them"
    filled(model)
    alive = weakref.ref(model)
    assert alive in _states.keyrefs()
    del model
    gc.collect()
    assert alive() is None
    assert alive not in _states.keyrefs()


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
    filled(model.to(torch.bfloat16))
    assert packed_model(model) is not None


def test_gradients_and_autocast_take_the_layers_own_way() -> None:
    layer, rows, packed = nn.Linear(64, 32), torch.randn(2, 64), PackedModel("one")
    twin = twin_with(packed, layer)
    assert twin is not None
    with torch.no_grad():
        twin(rows)
    assert len(packed) == 1
    twin(rows).sum().backward()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert twin(rows).dtype == torch.bfloat16
    assert layer.weight.grad is not None


def test_a_static_stage_does_not_notice_packing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = a_model(torch.float32)
    seen: list[Any] = []
    before = fingerprint(model)
    listen_within(monkeypatch, lambda: seen.append(fingerprint(model)))
    config = DecodeConfig(drafter=HostileDrafter(1, VOCAB), budget=7, pack=True, compile="static")
    got, _ = decode(Decoder(model, config), [[1, 2, 3]], 24)
    assert len(seen) > 24
    assert set(seen) == {before}
    assert packed_model(model)
    assert got == decode_plainly(model, [[1, 2, 3]], 24)


@pytest.mark.parametrize("wrong", [1, "yes", None])
def test_other_choices_are_refused(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="pack must be True, False or 'auto'"):
        DecodeConfig(pack=wrong)


@pytest.mark.parametrize(("dtype", "most", "has", "packs"), [
    (torch.float32, None, (), True), (torch.float64, None, (), False), (torch.float32, 1000, (), False),
    (torch.bfloat16, None, ("avx512bf16",), True), (torch.bfloat16, None, ("amx-bf16",), True),
    (torch.bfloat16, None, ("amx-bf16", "tiles"), False), (torch.bfloat16, None, (), False),
    (torch.float32, None, ("amx-bf16", "tiles"), True),
])  # fmt: skip
def test_small_models_are_packed_without_being_asked(
    dtype: torch.dtype, most: int | None, has: tuple[str, ...], packs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But not in bf16 where the processor has no products of it, or tiles that need no copy."""
    monkeypatch.setattr("racer.kernels.native.assembling.host_has", lambda feature: feature in has)
    monkeypatch.setattr("racer.core.packed_weights.tiles_here", lambda: "tiles" in has)
    if most is not None:
        monkeypatch.setattr("racer.core.packed_weights.SMALL", most)
    model = a_model(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error", PackingWarning)
        got, _ = decode(Decoder(model, DecodeConfig(drafter=HostileDrafter(1, VOCAB), budget=7)), [[1, 2, 3]], 20)
    assert (packed_model(model) is not None) is packs
    assert got == decode_plainly(model, [[1, 2, 3]], 20)
    if not packs and dtype != torch.float64:
        assert pack(model, True) is not None, "who asks for it gets it"
        assert not pack(model, "auto")


def test_a_model_that_has_changed_is_judged_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    model = a_model(torch.bfloat16)
    size = sum(module.weight.nbytes for module in model.modules() if isinstance(module, nn.Linear))
    monkeypatch.setattr("racer.core.packed_weights.SMALL", size)
    monkeypatch.setattr("racer.core.packed_weights.multiplies_bf16", lambda: True)
    monkeypatch.setattr("racer.core.packed_weights.tiles_here", lambda: False)
    filled(model)
    assert packed_model(model) is not None
    assert not pack(model.float(), "auto"), "twice as large"
    assert packed_model(model) is None, "the copies of what it was are gone"
    assert not pack(model.double(), "auto")
    assert pack(model.bfloat16(), "auto") is not None


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
    filled(model)
    counted(model)

    def fails(*_: Any) -> None:
        raise RuntimeError("not enough memory: you tried to allocate 7 bytes")

    monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", fails)
    with pytest.warns(PackingWarning, match="not enough memory"):
        got, _ = decode(
            Decoder(model, DecodeConfig(drafter=HostileDrafter(1, VOCAB), budget=7, pack=True)), [[1, 2, 3]], 20
        )
    assert got == decode_plainly(model, [[1, 2, 3]], 20)
    assert packed_model(model) is None


def test_models_that_torch_compiles_are_left_alone() -> None:
    model = a_model(torch.float32)
    model.compile(backend="eager")
    assert not pack(model, "auto")
