"""Parts of models with machine code in them do what their classes do, and are known by their code."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import GemmaConfig, LlamaConfig, LlamaForCausalLM
from transformers.models.gemma.modeling_gemma import GemmaMLP, GemmaRMSNorm
from transformers.models.llama import modeling_llama as llama
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaMLP, LlamaRMSNorm

from racer.core import fast_parts, small_parts
from racer.core.fast_parts import fast_forward
from racer.core.twin import Forward, twin_of
from racer.kernels.native.assembling import NotHere, team
from support.tiny_models import SMALL

pytestmark = pytest.mark.skipif(not team(), reason="needs GNU's OpenMP")
DTYPES = (torch.float32, torch.bfloat16)
KNOWN = ("llama", "mistral", "qwen2", "qwen3", "gemma3")
Made = list[str]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Made:
    """Names of what machine code made."""
    names: Made = []
    for kind in (LlamaRMSNorm, GemmaRMSNorm, LlamaAttention):
        fast_forward(kind)  # they are tried first

    def noting(name: str, original: Any) -> Any:
        def noted(*args: Any) -> Any:
            result = original(*args)
            if result is not None:
                names.append(name)
            return result

        return noted

    for name in ("normed", "passed", "turned"):
        monkeypatch.setattr(fast_parts, name, noting(name, getattr(fast_parts, name)))
    return names


def forward_of(kind: type) -> Forward:
    forward = fast_forward(kind)
    assert forward is not None
    return forward


def a_norm(kind: type, dtype: torch.dtype, width: int = 48) -> Any:
    norm = kind(width, 1e-3).to(dtype)
    with torch.no_grad():
        norm.weight.normal_()
    return norm


def same(ours: Tensor, theirs: Tensor) -> None:
    """Up to the order of sums, which rarely tells whether a bf16 is rounded up or down."""
    if ours.dtype == torch.float32:
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
        return
    torch.testing.assert_close(ours, theirs, rtol=2**-6, atol=0)
    assert (ours != theirs).sum() <= 1 + ours.numel() // 1000


# -- norms ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", [LlamaRMSNorm, GemmaRMSNorm])
@torch.no_grad()
def test_norms_are_the_classes(kind: type, dtype: torch.dtype, made: Made) -> None:
    norm, forward = a_norm(kind, dtype), forward_of(kind)
    for shape in ((1, 1, 48), (2, 7, 48), (3, 48), (48,), (2, 3, 5, 48)):
        for size in (1.0, 1e4, 1e-4):
            rows = (size * torch.randn(shape)).to(dtype)
            same(forward(norm, rows), norm(rows))
    assert len(made) == 15
    assert forward(norm, torch.randn(0, 48, dtype=dtype)).shape == (0, 48)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@torch.no_grad()
def test_a_norm_of_what_is_no_number_is_none(dtype: torch.dtype) -> None:
    for kind in (LlamaRMSNorm, GemmaRMSNorm):
        norm, rows = a_norm(kind, dtype), torch.randn(3, 48).to(dtype)
        rows[1, 5] = float("nan")
        torch.testing.assert_close(forward_of(kind)(norm, rows), norm(rows), equal_nan=True)


def falls_back(norm: Any, rows: Tensor, made: Made) -> None:
    got = forward_of(type(norm))(norm, rows)
    assert not made
    assert torch.equal(got, norm(rows))


@pytest.mark.parametrize("kind", [LlamaRMSNorm, GemmaRMSNorm])
def test_norms_of_other_numbers_are_the_classes_own(kind: type, made: Made) -> None:
    with torch.no_grad():
        for dtype in (torch.float16, torch.float64):
            falls_back(a_norm(kind, dtype), torch.randn(2, 48).to(dtype), made)
        falls_back(a_norm(kind, torch.float32), torch.randn(2, 48).bfloat16(), made)
        falls_back(a_norm(kind, torch.float32, width=40), torch.randn(2, 40), made)  # not whole vectors
        falls_back(a_norm(kind, torch.float32), torch.randn(48, 2).T, made)
        falls_back(a_norm(kind, torch.float32), torch.randn(2, 96)[:, ::2], made)
        gaps = a_norm(kind, torch.float32)
        gaps.weight = nn.Parameter(torch.randn(1).expand(48))
        falls_back(gaps, torch.randn(2, 48), made)
        one = a_norm(kind, torch.float32)
        one.weight = nn.Parameter(torch.randn(1))
        falls_back(one, torch.randn(2, 48), made)
        tensor = a_norm(kind, torch.float32)
        setattr(tensor, "eps" if hasattr(tensor, "eps") else "variance_epsilon", torch.tensor(0.5))
        falls_back(tensor, torch.randn(2, 48), made)
        with torch.autocast("cpu", torch.bfloat16):
            falls_back(a_norm(kind, torch.float32), torch.randn(2, 48), made)
    norm = a_norm(kind, torch.float32)
    falls_back(norm, torch.randn(2, 48), made)
    forward_of(kind)(norm, torch.randn(2, 48)).sum().backward()
    assert norm.weight.grad is not None


@torch.no_grad()
def test_a_norm_may_be_called_by_name_and_on_a_default_device(made: Made) -> None:
    norm, rows = a_norm(LlamaRMSNorm, torch.float32), torch.randn(2, 48)
    same(forward_of(LlamaRMSNorm)(norm, hidden_states=rows), norm(rows))
    assert not made
    with torch.device("meta"):
        got = forward_of(LlamaRMSNorm)(norm, rows)
    assert made
    same(got, norm(rows))


def test_classes_are_tried_on_the_cpu() -> None:
    for trial in (fast_parts._norm_is_ours, fast_parts._turns_are_ours):
        trial.cache_clear()
    with torch.device("meta"):
        assert fast_forward(LlamaRMSNorm)
        assert fast_forward(GemmaRMSNorm)
        assert fast_forward(LlamaAttention)


# -- classes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KNOWN)
def test_classes_of_transformers_are_known(name: str) -> None:
    module = importlib.import_module(f"transformers.models.{name}.modeling_{name}")
    for part in ("RMSNorm", "MLP", "Attention"):
        kinds = [
            kind for known, kind in vars(module).items() if known.endswith(part) and kind.__module__ == module.__name__
        ]
        assert kinds
        assert [fast_forward(kind) is not None for kind in kinds] == [True] * len(kinds), part


class _Louder(LlamaRMSNorm):
    def forward(self, hidden_states: Tensor) -> Tensor:
        return 2 * super().forward(hidden_states)


class _OtherName(nn.Module):
    """As Llama's, but for a name."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        input_dtype = hidden_states.dtype
        hidden_states = hidden_states.to(torch.float32)
        variance = hidden_states.pow(2).mean(-1, keepdim=True)
        hidden_states = hidden_states * torch.rsqrt(variance + self.eps)  # type: ignore[operator]
        return self.weight * hidden_states.to(input_dtype)  # type: ignore[no-any-return, operator]


class _Doubled(LlamaRMSNorm):
    @property
    def weight(self) -> Any:
        return 2 * self._parameters["weight"]  # type: ignore[operator]


class _OtherRoot(GemmaRMSNorm):
    def _norm(self, x: Any) -> Any:
        return x


class _Squared(LlamaMLP):
    def forward(self, x: Any) -> Any:
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x) ** 2)


class _Plain(LlamaAttention):
    def forward(self, hidden_states: Any, *_: Any, **__: Any) -> Any:
        return hidden_states, None


@pytest.mark.parametrize(
    "kind",
    [_Louder, _OtherName, _Doubled, _OtherRoot, _Squared, _Plain, nn.Linear, nn.LayerNorm, nn.RMSNorm, nn.Module],
)
def test_classes_that_do_something_else_are_not(kind: type) -> None:
    assert fast_forward(kind) is None


def test_subclasses_with_the_same_code_are_known() -> None:
    class Same(LlamaRMSNorm):
        pass

    assert fast_forward(Same) is not None


@torch.no_grad()
def test_a_forward_that_a_class_gets_later_is_its_own(monkeypatch: pytest.MonkeyPatch, made: Made) -> None:
    class Own(LlamaRMSNorm):
        pass

    model = nn.Sequential(a_norm(Own, torch.float32))
    rows = torch.randn(2, 48)
    for times in (1, 3):
        twin: Any = twin_of(model, makers=(fast_forward,))
        assert (twin is not None) == (times == 1)
        torch.testing.assert_close((twin or model)(rows), times * LlamaRMSNorm.forward(model[0], rows))
        monkeypatch.setattr(Own, "forward", lambda self, rows: 3 * LlamaRMSNorm.forward(self, rows))
    assert made == ["normed"]


# -- gates ------------------------------------------------------------------------------------------------------------


def an_mlp(kind: type, dtype: torch.dtype, act: str, inner: int = 96) -> Any:
    config = LlamaConfig if kind is LlamaMLP else GemmaConfig
    return kind(config(hidden_size=32, intermediate_size=inner, hidden_act=act)).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("kind", "act"), [(LlamaMLP, "silu"), (GemmaMLP, "gelu_pytorch_tanh")])
@torch.no_grad()
def test_gated_layers_are_the_classes(kind: type, act: str, dtype: torch.dtype, made: Made) -> None:
    layer, forward = an_mlp(kind, dtype, act), forward_of(kind)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-2
    for shape in ((1, 1, 32), (2, 7, 32), (3, 32)):
        rows = (4 * torch.randn(shape)).to(dtype)
        torch.testing.assert_close(forward(layer, rows), layer(rows), rtol=tolerance, atol=tolerance)
    assert made == ["passed"] * 3


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("act", ["silu", "gelu_pytorch_tanh"])
@torch.no_grad()
def test_gates_over_all_their_range(act: str, dtype: torch.dtype) -> None:
    layer = an_mlp(LlamaMLP, dtype, act)
    gates = torch.cat(
        [torch.linspace(-120, 120, 997), torch.tensor([0.0, -0.0, 1e-30, -1e-30, 1e20, -1e20, torch.nan])]
    )
    gates = torch.cat([gates, torch.zeros(-len(gates) % 16)]).to(dtype)
    rows = torch.full_like(gates, 0.5)
    kind = small_parts.kind_of(layer.act_fn)
    assert kind is not None
    got, expected = small_parts.passed(gates, rows, kind), layer.act_fn(gates) * rows
    tolerance = 2e-6 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance, equal_nan=True)


def own_gate(layer: Any, dtype: torch.dtype = torch.float32) -> None:
    rows = torch.randn(3, 32, dtype=dtype)
    assert torch.equal(forward_of(LlamaMLP)(layer, rows), layer(rows))


def test_other_gates_are_torchs(made: Made) -> None:
    with torch.no_grad():
        for act in ("relu", "gelu", "gelu_new", "quick_gelu", "gelu_python_tanh"):
            own_gate(an_mlp(LlamaMLP, torch.float32, act))
        for dtype in (torch.float16, torch.float64):
            own_gate(an_mlp(LlamaMLP, dtype, "silu"), dtype)
        own_gate(an_mlp(LlamaMLP, torch.float32, "silu", inner=97))
        layer = an_mlp(LlamaMLP, torch.float32, "silu")
        with torch.autocast("cpu", torch.bfloat16):
            own_gate(layer)
    own_gate(layer)
    forward_of(LlamaMLP)(layer, torch.randn(3, 32)).sum().backward()
    assert layer.gate_proj.weight.grad is not None
    assert not made


# -- rotary positions -------------------------------------------------------------------------------------------------


def turned_parts(dtype: torch.dtype, batch: int = 2, nodes: int = 5, size: int = 32) -> tuple[Tensor, ...]:
    query = torch.randn(batch, nodes, 4, size).transpose(1, 2)
    key = torch.randn(batch, nodes, 2, size).transpose(1, 2)
    cos, sin = (torch.randn(batch, nodes, size) for _ in range(2))
    return query.to(dtype), key.to(dtype), cos.to(dtype), sin.to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@torch.no_grad()
def test_turning_is_llamas_bit_for_bit(dtype: torch.dtype) -> None:
    for batch, nodes, size in ((1, 1, 32), (2, 5, 64), (3, 2, 128), (1, 9, 96)):
        query, key, cos, sin = turned_parts(dtype, batch, nodes, size)
        for parts in (
            (query, key, cos, sin),
            (query.contiguous(), key, cos[:1].clone(), sin[:1].clone()),
            (query[:, :, ::2], key[:, :, ::2], cos[:, ::2].contiguous(), sin[:, ::2].contiguous()),
        ):
            ours = small_parts.turned(*parts)
            assert ours is not None
            for got, expected in zip(ours, llama.apply_rotary_pos_emb(*parts), strict=True):
                assert torch.equal(got, expected)


def test_other_turns_are_llamas_own() -> None:
    query, key, cos, sin = parts = turned_parts(torch.float32)
    assert small_parts.turned(*parts) is None, "gradients"
    with torch.no_grad():
        assert small_parts.turned(*parts) is not None
        with torch.autocast("cpu", torch.bfloat16):
            assert small_parts.turned(*parts) is None
        for other in (
            turned_parts(torch.float16), turned_parts(torch.float64), turned_parts(torch.float32, size=16),
            turned_parts(torch.float32, size=40), (query.bfloat16(), key.bfloat16(), cos, sin),
            (query, key, cos[..., :16], sin[..., :16]), (query, key, cos[:, :3], sin[:, :3]),
            (query, key, cos[:, None], sin[:, None]), (query, key, cos.transpose(0, 1), sin.transpose(0, 1)),
            (query, key[:, :, :3], cos, sin), (query, key, cos[:1].expand(2, -1, -1), sin[:1].expand(2, -1, -1)),
            (query[..., ::2], key[..., ::2], cos[..., ::2], sin[..., ::2]),
        ):  # fmt: skip
            assert small_parts.turned(*other) is None


def an_attention(dtype: torch.dtype) -> Any:
    config = LlamaConfig(hidden_size=64, num_attention_heads=2, num_key_value_heads=1, attn_implementation="sdpa")
    return LlamaAttention(config, 0).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@torch.no_grad()
def test_attention_turns_by_ours_and_heeds_who_takes_that_name(
    dtype: torch.dtype, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, forward = an_attention(dtype), forward_of(LlamaAttention)
    rows = torch.randn(1, 5, 64).to(dtype)
    angles = torch.randn(1, 5, 32).to(dtype), torch.randn(1, 5, 32).to(dtype)
    expected = layer(rows, position_embeddings=angles, attention_mask=None)[0]
    assert not made
    same(forward(layer, rows, position_embeddings=angles, attention_mask=None)[0], expected)
    assert made == ["turned"]
    monkeypatch.setattr(llama, "apply_rotary_pos_emb", lambda query, key, *_, **__: (query * 2, key))
    other = layer(rows, position_embeddings=angles, attention_mask=None)[0]
    assert not torch.equal(other, expected)
    assert torch.equal(forward(layer, rows, position_embeddings=angles, attention_mask=None)[0], other)
    assert made == ["turned"]


# -- models -----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_model_with_hooks_has_no_twin_and_its_classes_stay_as_they_are() -> None:
    model = LlamaForCausalLM(LlamaConfig(**SMALL)).eval()
    before = {type(part): type(part).forward for part in model.modules()}
    assert twin_of(model, makers=(fast_forward,)) is not None
    assert {type(part): type(part).forward for part in model.modules()} == before
    next(part for part in model.modules() if fast_forward(type(part))).register_forward_hook(lambda *_: None)
    assert twin_of(model, makers=(fast_forward,)) is None


@torch.no_grad()
def test_without_machine_code_parts_are_the_classes_own(monkeypatch: pytest.MonkeyPatch, made: Made) -> None:
    def missing(*_: Any) -> Any:
        raise NotHere("no threads")

    norm, layer = a_norm(LlamaRMSNorm, torch.float32), an_mlp(LlamaMLP, torch.float32, "silu")
    forwards = forward_of(LlamaRMSNorm), forward_of(LlamaMLP)
    for name in ("root_mean_square", "gate", "rotation"):
        monkeypatch.setattr(small_parts, name, missing)
    for part, forward, width in zip((norm, layer), forwards, (48, 32), strict=True):
        rows = torch.randn(2, width)
        assert torch.equal(forward(part, rows), part(rows))
    assert small_parts.turned(*turned_parts(torch.float32)) is None
    assert not made
