"""Nothing of a model is touched while it decodes, and its twin does what it does."""

from __future__ import annotations

import copy
import io
import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers import LlamaConfig, LlamaForCausalLM

import racer
from racer import DecodeConfig, Decoder
from racer.core.grouped_attention import grouped_configs
from racer.core.model_runner import ModelRunner
from racer.core.packed_weights import PackingWarning, pack, packed_model
from racer.core.support import probe
from racer.core.twin import intercepted, obstacle, twin_of
from racer.errors import UnsupportedModel
from racer.testing import HostileDrafter, decode, decode_plainly
from support.tiny_models import BUILD, SMALL, VOCAB, tiny
from support.ways import listen_within

PROMPTS = [[1, 2, 3, 4], [5, 6]]


def a_model(dtype: torch.dtype = torch.float32, kind: Callable[[LlamaConfig], Any] = LlamaForCausalLM) -> Any:
    torch.manual_seed(7)
    model = kind(LlamaConfig(**SMALL)).to(dtype).eval()
    for parameter in model.parameters():
        parameter.data.mul_(4)
    return model


def a_decoder(model: Any) -> Decoder:
    return Decoder(model, DecodeConfig(drafter=HostileDrafter(1, VOCAB), budget=7, pack=True))


def an_attached_model() -> Any:
    return racer.attach(a_model(), DecodeConfig(drafter=HostileDrafter(1, VOCAB), budget=4, pack=True))


def a_twin(model: Any) -> Any:
    return ModelRunner(model, probe(model).plan, pack(model)).twin  # type: ignore[arg-type]


def state(model: Any) -> Any:
    """All that is to be seen of a model: what its modules hold, by identity, and its configuration."""
    parts = ((module, {name: id(value) for name, value in vars(module).items()}) for module in model.modules())
    inner = [[id(value) for value in vars(module)[name].values()] for module in model.modules() for name in _DICTS]
    return [(id(module), type(module), names) for module, names in parts], inner, model.config.to_dict()


_DICTS = ("_parameters", "_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks")


def test_between_any_two_operations_the_model_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looked at from within each of its layers: what ^C or another thread would find there."""
    model = a_model()
    seen: list[bool] = []
    decoder, before = a_decoder(model), state(model)
    listen_within(
        monkeypatch,
        lambda: seen.append(state(model) == before and model.config._attn_implementation == "sdpa"),
    )
    decode(decoder, PROMPTS, 20)
    assert len(seen) > 20
    assert all(seen)
    assert packed_model(model), "though another thing is run"
    assert probe(model).plan.groups  # type: ignore[union-attr]


class _Interrupt(BaseException):
    """As KeyboardInterrupt, which pytest takes for its own."""


@pytest.mark.parametrize("part", range(4))
def test_an_interrupt_anywhere_leaves_the_model_as_it_was(part: int) -> None:
    """Raised from a line of ours, one after the other, as a signal's handler would."""
    model = a_model()
    decoder, plain = a_decoder(model), decode_plainly(model, PROMPTS, 20)
    decode(decoder, PROMPTS, 20)
    before = state(model)
    for count in range(part, 400, 12):
        left = [count]

        def trace(frame: Any, event: str, _: Any, left: list[int] = left) -> Any:
            if "racer/core/" not in frame.f_code.co_filename.replace("\\", "/"):
                return None
            left[0] -= event == "line"
            if left[0] == 0:
                raise _Interrupt
            return trace

        sys.settrace(trace)
        try:
            decode(decoder, PROMPTS, 20)
        except _Interrupt:
            pass
        finally:
            sys.settrace(None)
        assert left[0] <= 0
        assert state(model) == before
    assert decode_plainly(model, PROMPTS, 20) == plain
    assert decode(decoder, PROMPTS, 20)[0] == plain


@pytest.mark.parametrize("way", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model)), "save"])
def test_a_model_may_be_copied_while_a_thread_decodes(way: Any) -> None:
    model = an_attached_model()
    ids, stop, failures = torch.tensor([[1, 2, 3]]), threading.Event(), []
    plain = type(model).generate(model, ids, max_new_tokens=16, do_sample=False)

    def work() -> None:
        while not stop.is_set():
            if not torch.equal(model.generate(ids, max_new_tokens=16, do_sample=False), plain):
                failures.append("other text")

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(5):
            if way == "save":
                torch.save(model, file := io.BytesIO())
                file.seek(0)
                other = torch.load(file, weights_only=False)
            else:
                other = way(model)
            racer.detach(other)
            assert not any("forward" in vars(module) for module in other.modules())
            assert other.config._attn_implementation == "sdpa"
            assert torch.equal(type(other).generate(other, ids, max_new_tokens=16, do_sample=False), plain)
    finally:
        stop.set()
        thread.join()
    assert not failures


@pytest.mark.parametrize("name", BUILD)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.filterwarnings("ignore:.*without packed weights")
@torch.no_grad()
def test_a_twin_does_what_its_model_does(name: str, dtype: torch.dtype) -> None:
    model = copy.deepcopy(tiny(name)).to(dtype)
    twin, ids = a_twin(model), torch.randint(VOCAB, (2, 9), generator=torch.Generator().manual_seed(1))
    assert twin is not None
    assert isinstance(twin, type(model))
    assert twin.__class__ is type(model)
    expected = model(ids, use_cache=False).logits
    for _ in range(2):  # with the model's weights, and with packed ones
        got = twin(ids, use_cache=False).logits
        error = (got - expected).double().square().mean().sqrt() / expected.double().std()
        assert error < (1e-4 if dtype == torch.float32 else 0.05)
    assert [id(part) for part in twin.parameters()] == [id(part) for part in model.parameters()]
    assert list(twin.state_dict()) == list(model.state_dict())
    assert len(packed_model(model) or ()) == sum(type(module) is nn.Linear for module in model.modules())


class _Counting(LlamaForCausalLM):
    """Notes things in its forward, and reads them: a number, a buffer, and what somebody else sets."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        self.calls, self.scale = 0, 1.0
        self.register_buffer("total", torch.zeros(()), persistent=False)

    @wraps(LlamaForCausalLM.forward)  # for its signature
    def forward(self, *args: Any, **named: Any) -> Any:
        self.calls += 1
        self.total = self.total + 1
        self.last = named["input_ids"]
        output = super().forward(*args, **named)
        output.logits = output.logits * self.scale
        return output


def test_what_a_forward_notes_is_the_models() -> None:
    model = a_model(kind=_Counting)
    decoder = a_decoder(model)
    model.calls, model.total = 0, torch.zeros(())
    _, stats = decode(decoder, PROMPTS, 20)
    assert model.calls == int(model.total) == stats.steps + 1
    assert model.last.shape[0] <= 2
    twin = a_twin(model)
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        before = twin(input_ids=ids).logits
        model.scale = -2.0
        torch.testing.assert_close(twin(input_ids=ids).logits, -2 * before, rtol=1e-4, atol=1e-4)  # products may differ


def test_children_exchanged_meanwhile_are_seen() -> None:
    model = a_model()
    twin, ids = a_twin(model), torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        twin(ids)
        model.model.layers[1] = copy.deepcopy(model.model.layers[0])
        model.lm_head = nn.Linear(32, VOCAB)
        torch.testing.assert_close(twin(ids).logits, model(ids).logits)


class _ById(LlamaForCausalLM):
    """Knows its layers by their identity, which their twins do not have."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        self.numbers = {id(layer): number for number, layer in enumerate(self.model.layers)}

    @wraps(LlamaForCausalLM.forward)  # for its signature
    def forward(self, *args: Any, **named: Any) -> Any:
        assert [self.numbers[id(layer)] for layer in self.model.layers] == [0, 1]
        return super().forward(*args, **named)


def test_a_model_whose_twin_fails_is_run_itself() -> None:
    model = a_model(kind=_ById)
    decoder = a_decoder(model)
    assert not decoder.support.plan.groups  # type: ignore[union-attr]
    with pytest.warns(PackingWarning, match="its twin fails with KeyError"):
        got, _ = decode(decoder, PROMPTS, 20)
    assert got == decode_plainly(model, PROMPTS, 20)
    assert decode(decoder, PROMPTS, 20)[0] == got, "and nobody is warned twice"
    assert packed_model(model) is None


class _Failing(LlamaForCausalLM):
    @wraps(LlamaForCausalLM.forward)  # for its signature
    def forward(self, *args: Any, **named: Any) -> Any:
        if getattr(self, "fails", False):
            raise RuntimeError("out of memory")
        return super().forward(*args, **named)


def test_the_models_own_errors_are_its_own() -> None:
    model = a_model(kind=_Failing)
    decoder = a_decoder(model)
    decode(decoder, PROMPTS, 20)
    model.fails = True
    with pytest.raises(RuntimeError, match="out of memory") as error:
        decode(decoder, PROMPTS, 20)
    assert error.value.__context__ is None
    model.fails = False
    assert decode(decoder, PROMPTS, 20)[0] == decode_plainly(model, PROMPTS, 20)
    assert packed_model(model)


def _slotted() -> type:
    class Slotted(nn.Module):
        __slots__ = ("inner",)

    return Slotted


def test_parts_that_cannot_have_a_twin_are_the_models_own() -> None:
    slotted = _slotted()()
    slotted.layer = nn.Linear(4, 4)
    compiled = nn.Sequential(nn.Linear(4, 4))
    compiled.compile(backend="eager")
    model = nn.Sequential(slotted, compiled, nn.Linear(4, 4))
    twin = twin_of(model, lambda module: nn.Identity() if type(module) is nn.Linear else None)
    assert twin is not None
    assert [mine is own for mine, own in zip(twin, model, strict=True)] == [True, True, False]
    assert obstacle(nn.Sequential(torch.jit.script(nn.Sequential(nn.Linear(4, 4)))))
    assert twin_of(nn.Sequential(slotted), lambda module: nn.Identity() if type(module) is nn.Linear else None) is None


def test_containers_show_twins() -> None:
    shared = nn.Linear(2, 2)
    model = nn.ModuleDict({"list": nn.ModuleList([shared, nn.ReLU(), nn.Linear(2, 2)]), "again": shared})
    twin = twin_of(model, lambda module: nn.Identity() if type(module) is nn.Linear else None)
    assert twin is not None
    kinds = [nn.Identity, nn.ReLU, nn.Identity]
    assert [type(module) for module in twin["list"]] == kinds
    assert [type(module) for module in twin["list"][:2]] == kinds[:2]
    assert type(twin["list"][:2]) is nn.ModuleList
    assert twin["again"] is twin["list"][0]
    assert [type(module) for module in twin["list"][-1:]] == [nn.Identity]
    assert model["again"] is shared


@pytest.fixture(params=["forward", "pre", "all", "replaced"])
def watched(request: pytest.FixtureRequest) -> Iterator[tuple[Any, list[Any]]]:
    """A model whose layer tells a list of its calls, in one of several ways."""
    model, seen = a_model(), []
    layer, handle = model.model.layers[0], None
    if request.param == "forward":
        layer.register_forward_hook(lambda module, *_: seen.append(module))
    elif request.param == "pre":
        layer.register_forward_pre_hook(lambda module, *_: seen.append(module))
    elif request.param == "all":
        handle = nn.modules.module.register_module_forward_hook(
            lambda module, *_: seen.append(module) if module is layer else None
        )
    else:
        original = layer.forward
        layer.forward = lambda *args, **named: (seen.append(layer), original(*args, **named))[1]
    yield model, seen
    if handle is not None:
        handle.remove()


def test_who_watches_a_model_sees_the_model(watched: tuple[Any, list[Any]]) -> None:
    model, seen = watched
    assert obstacle(model)
    if "forward" not in vars(model.model.layers[0]):  # a hook may count: it is not even tried
        with pytest.raises(UnsupportedModel, match="would see trees"):
            a_decoder(model)
        assert seen == []
        return
    decoder = a_decoder(model)
    seen.clear()
    with pytest.warns(PackingWarning, match="hooks|was replaced"):
        got, stats = decode(decoder, PROMPTS, 20)
    assert len(seen) == stats.steps + 1
    assert set(seen) == {model.model.layers[0]}
    assert got == decode_plainly(model, PROMPTS, 20)


def test_transformers_own_hooks_do_no_harm() -> None:
    model = a_model()
    ids = torch.tensor([[1, 2, 3]])
    model(ids, output_hidden_states=True)
    assert any(layer._forward_hooks for layer in model.modules()), "they stay"
    assert not obstacle(model)
    assert decode(a_decoder(model), PROMPTS, 20)[0] == decode_plainly(model, PROMPTS, 20)
    assert packed_model(model)
    with torch.no_grad():
        expected, got = model(ids, output_hidden_states=True), a_twin(model)(ids, output_hidden_states=True)
    assert len(got.hidden_states) == len(expected.hidden_states) == 3
    for mine, own in zip(got.hidden_states, expected.hidden_states, strict=True):
        torch.testing.assert_close(mine, own)


class _Doubling(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        return 2 * result if func is nn.functional.linear else result


def test_a_mode_of_torchs_sees_the_models_operations() -> None:
    model = a_model()
    decoder = a_decoder(model)
    plain = decode_plainly(model, PROMPTS, 20)
    assert decode(decoder, PROMPTS, 20)[0] == plain
    with _Doubling():
        assert intercepted()
        assert decode(decoder, PROMPTS, 20)[0] == decode_plainly(model, PROMPTS, 20) != plain
    with torch.device("cpu"):
        assert not intercepted()


def test_a_float32_model_under_autocast() -> None:
    model = a_model()
    decode(a_decoder(model), PROMPTS, 20)
    ids = torch.tensor([[1, 2, 3, 4]])
    twin = a_twin(model)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = model(ids).logits
        for _ in range(2):
            assert (twin(ids).logits - expected).abs().max() <= 0.02 * expected.abs().max()
    with torch.no_grad():
        torch.testing.assert_close(twin(ids).logits, model(ids).logits, rtol=1e-3, atol=1e-3)


def test_nothing_that_is_kept_holds_the_model() -> None:
    import gc
    import weakref

    model = an_attached_model()  # its dict holds a method that holds it
    model.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=20, do_sample=False)
    runner = ModelRunner(model, probe(model).plan, pack(model))  # type: ignore[arg-type]
    alive = weakref.ref(model)
    del model, runner
    gc.collect()
    assert alive() is None


def test_a_configuration_that_is_exchanged_is_the_models() -> None:
    model = a_model()
    configs = grouped_configs(model)
    assert configs is not None
    assert configs.twin._attn_implementation == "racer_grouped"
    assert configs.twin.hidden_size == 32
    assert isinstance(configs.twin, LlamaConfig)
    model.config.hidden_size, model.config._attn_implementation = 33, "eager"
    assert configs.twin.hidden_size == 33
    assert configs.twin._attn_implementation == "eager"
    twin = twin_of(model, None, configs)
    assert twin is not None
    assert twin.config is configs.twin
    twin.config = other = copy.copy(model.config)
    assert model.config is twin.config is other


def test_weights_that_are_elsewhere_are_left_alone(tmp_path: Path) -> None:
    """accelerate keeps them on the disk, and brings them in by a forward of its own."""
    from accelerate import disk_offload

    model = a_model()
    ids = torch.tensor([[1, 2, 3]])
    expected = model(ids).logits
    disk_offload(model, tmp_path, execution_device=torch.device("cpu"))
    assert model.lm_head.weight.is_meta
    for choice in ("auto", True):
        with nullcontext() if choice == "auto" else pytest.warns(PackingWarning, match="was replaced"):
            assert pack(model, choice) is None
    assert twin_of(model, lambda _: nn.Identity()) is None
    torch.testing.assert_close(model(ids).logits, expected)
