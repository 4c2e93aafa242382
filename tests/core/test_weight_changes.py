"""Whoever changes a weight, in whatever way, is noticed: the text is that of the model as it is now."""

from __future__ import annotations

import copy
import ctypes
from collections.abc import Callable
from typing import Any

import attrs
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune
from transformers import LlamaConfig, LlamaForCausalLM

import racer
from racer import DecodeConfig, PlainDecodingWarning
from racer.core.packed_weights import packed_model
from racer.core.products import as_it_lies, by_packed
from racer.testing import HostileDrafter
from support.tiny_models import SMALL, VOCAB
from support.ways import take

IDS = torch.tensor([[1, 2, 3, 4]])
Change = Callable[[Any], Any]
CHANGES: dict[str, Change] = {}


def change(function: Change) -> Change:
    CHANGES[function.__name__] = function
    return function


def a_config() -> DecodeConfig:
    """With a drafter of its own, whose drafts do not depend on other tests."""
    return DecodeConfig(drafter=HostileDrafter(1, VOCAB), budget=4, pack=True)


def a_model(dtype: torch.dtype) -> Any:
    torch.manual_seed(7)
    model = LlamaForCausalLM(LlamaConfig(**SMALL)).to(dtype).eval()
    for parameter in model.parameters():
        parameter.data.mul_(4)
    return model


def plain(model: Any, **given: Any) -> list[int]:
    settings = {"max_new_tokens": 20, "do_sample": False} | given
    tokens: list[int] = type(model).generate(model, IDS, **settings)[0].tolist()
    return tokens


def ours(model: Any, **given: Any) -> list[int]:
    settings = {"max_new_tokens": 20, "do_sample": False} | given
    tokens: list[int] = model.generate(IDS, **settings)[0].tolist()
    return tokens


def key(model: Any) -> nn.Parameter:
    weight: nn.Parameter = model.model.layers[0].self_attn.k_proj.weight
    return weight


def down(model: Any) -> nn.Parameter:
    weight: nn.Parameter = model.model.layers[1].mlp.down_proj.weight
    return weight


def as_bytes(weight: torch.Tensor) -> Any:
    return weight.detach().view(torch.uint8).numpy()


@change
@torch.no_grad()
def in_place(model: Any) -> None:
    key(model).add_(0.25)


@change
def columns_by_data(model: Any) -> None:
    down(model).data[:, 3:30] = 0


@change
def one_number_by_data(model: Any) -> None:
    down(model).data[5, 11] = 300


@change
def one_bit_by_data(model: Any) -> None:
    as_bytes(down(model))[4, -1] ^= 0x40  # of the number's exponent


@change
def signs_by_data(model: Any) -> None:
    down(model).data.neg_()


@change
def rows_exchanged_by_data(model: Any) -> None:
    down(model).data.copy_(down(model).data.flip(0))


@change
def by_numpy(model: Any) -> None:
    as_bytes(down(model))[:] = as_bytes(down(model))[::-1].copy()


@change
def by_storage(model: Any) -> None:
    down(model).untyped_storage().fill_(0)


@change
def by_address(model: Any) -> None:
    ctypes.memset(down(model).data_ptr(), 0, down(model).nbytes // 2)


@change
def by_dlpack(model: Any) -> None:
    torch.utils.dlpack.from_dlpack(down(model).data).mul_(-1)


@change
def data_assigned(model: Any) -> None:
    down(model).data = -down(model).data


@change
@torch.no_grad()
def set_to_another_storage(model: Any) -> None:
    down(model).set_(torch.full_like(down(model), 0.125))


@change
def swapped(model: Any) -> None:
    torch.utils.swap_tensors(down(model), nn.Parameter(-down(model).detach()))


@change
def exchanged(model: Any) -> None:
    model.model.layers[1].mlp.down_proj.weight = nn.Parameter(-down(model).detach())


@change
def layer_exchanged(model: Any) -> None:
    layer = copy.deepcopy(model.model.layers[1].mlp.down_proj)
    layer.weight.data.neg_()
    model.model.layers[1].mlp.down_proj = layer


@change
def layers_exchanged(model: Any) -> None:
    model.model.layers[0].mlp, model.model.layers[1].mlp = model.model.layers[1].mlp, model.model.layers[0].mlp


def negated(model: Any) -> dict[str, torch.Tensor]:
    return {name: -part if "mlp" in name else part.clone() for name, part in model.state_dict().items()}


@change
def state_loaded(model: Any) -> None:
    model.load_state_dict(negated(model))


@change
def state_assigned(model: Any) -> None:
    model.load_state_dict(negated(model), assign=True)


@change
def optimised(model: Any) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.3)
    model(IDS, labels=IDS).loss.backward()
    optimizer.step()
    optimizer.zero_grad()


@change
@torch.no_grad()
def all_at_once(model: Any) -> None:
    torch._foreach_mul_([down(model), key(model)], -1.5)


@change
def from_a_vector(model: Any) -> None:
    vector = nn.utils.parameters_to_vector(model.model.layers[1].mlp.parameters())
    nn.utils.vector_to_parameters(-vector, model.model.layers[1].mlp.parameters())


@change
def initialised(model: Any) -> None:
    nn.init.normal_(down(model))


@change
def quantised_in_place(model: Any) -> None:
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            step = layer.weight.data.float().abs().amax(1, keepdim=True) / 2
            layer.weight.data.copy_(((layer.weight.data.float() / step).round() * step).to(layer.weight.dtype))


@change
def pruned(model: Any) -> None:
    prune.l1_unstructured(model.model.layers[1].mlp.down_proj, "weight", 0.7)


@change
def parametrised(model: Any) -> None:
    class Negative(nn.Module):
        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            return -weight

    parametrize.register_parametrization(model.model.layers[1].mlp.down_proj, "weight", Negative())


@change
def tied(model: Any) -> None:
    model.lm_head.weight = model.model.embed_tokens.weight


@change
def resized(model: Any) -> None:
    with torch.no_grad():
        model.lm_head.weight.mul_(-1)
    model.resize_token_embeddings(VOCAB + 3, mean_resizing=False)


@change
def cast_to_and_fro(model: Any) -> None:
    dtype = model.dtype
    model.to(torch.float64)
    down(model).data.neg_()
    model.to(dtype)


def writer(model: Any) -> Callable[[nn.Module, Any], None]:
    """A hook that writes a weight after anybody has looked: one for prompts, another one for steps."""
    weight, original = down(model), down(model).detach().clone()

    def writes(module: nn.Module, given: Any) -> None:
        if type(module).__name__ == "LlamaMLP":
            weight.data.copy_(original if given[0].shape[1] > 1 else -original)

    return writes


@change
def hooked(model: Any) -> None:
    model.model.layers[0].mlp.register_forward_pre_hook(writer(model))


@change
def hooked_for_all(model: Any) -> Any:
    return nn.modules.module.register_module_forward_pre_hook(writer(model))


@change
def forward_replaced(model: Any) -> None:
    part, writes = model.model.layers[0].mlp, writer(model)
    part.forward = lambda rows: (writes(part, [rows]), type(part).forward(part, rows))[1]


FROM_STEP_TO_STEP = ("hooked", "hooked_for_all", "forward_replaced")
"""They tell steps from prompts by the number of tokens, so there must be no trees."""


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.slow)], ids=str)
@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.filterwarnings("ignore:.*without packed weights. a .* in it has hooks", "ignore:.*hooks on all modules")
@pytest.mark.filterwarnings("ignore:.*without packed weights. the forward of a")
def test_the_text_is_that_of_the_changed_model(name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    take(monkeypatch, by_packed)
    model = racer.attach(a_model(dtype), a_config())
    before = ours(model)
    assert before == ours(model) == plain(model)
    assert packed_model(model), "it was packed"
    handle = CHANGES[name](model)
    try:
        if name in FROM_STEP_TO_STEP:
            with pytest.warns(PlainDecodingWarning, match="would see trees|differ from generate's"):
                got = ours(model)
        else:
            got = ours(model)
        expected = plain(model)
    finally:
        if handle is not None:
            handle.remove()
    assert got == expected
    assert got != before, "it is a change"


class _Changes:
    """A streamer that changes the model after some tokens."""

    def __init__(self, model: Any, how: Change) -> None:
        self.model, self.how, self.calls = model, how, 0

    def put(self, _: Any) -> None:
        self.calls += 1
        if self.calls == 8:
            self.how(self.model)

    def end(self) -> None:
        pass


@pytest.mark.parametrize("way", [by_packed, as_it_lies], ids=lambda way: way.__name__)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "how", [in_place, data_assigned, swapped, exchanged, layer_exchanged, state_loaded, all_at_once]
)
def test_a_change_within_a_call_is_seen_by_the_next_step(
    how: Change, dtype: torch.dtype, way: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No draft is right by chance where the change comes: what a step finds beyond it is of the old weights."""
    take(monkeypatch, way)
    single = DecodeConfig(drafter="none", pack=way is by_packed)
    config = attrs.evolve(a_config(), pack=way is by_packed) if dtype == torch.float32 else single
    model = racer.attach(a_model(dtype), config)
    before, other = ours(model), copy.deepcopy(model)
    got = ours(model, streamer=_Changes(model, how))
    assert got == plain(other, streamer=_Changes(other, how)) != before
    assert ours(model) == plain(model)
