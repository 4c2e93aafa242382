"""Linear attention over a few tokens in one piece, beside token by token."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers.models.qwen3_5 import modeling_qwen3_5 as qwen
from transformers.models.qwen3_next import modeling_qwen3_next as qwen_next

from racer.core import short_passes
from racer.core.short_passes import CHUNKED, SHORT, gated_delta_rule, short_forward
from racer.core.twin import twin_of
from support.chain_models import chain_model
from support.versions import recent


def one_by_one(
    query: Tensor, key: Tensor, value: Tensor, g: Tensor, beta: Tensor, state: Tensor, normed: bool
) -> tuple[Tensor, Tensor]:
    """The definition, in float64."""
    query, key, value, g, beta, state = (part.double() for part in (query, key, value, g, beta, state))
    if normed:
        query, key = (part / (part.square().sum(-1, keepdim=True) + 1e-6).sqrt() for part in (query, key))
    groups, outputs = value.shape[2] // key.shape[2], torch.zeros_like(value)
    for b in range(len(key)):
        for head in range(value.shape[2]):
            held = state[b, head]
            for t in range(key.shape[1]):
                k, q = key[b, t, head // groups], query[b, t, head // groups] / key.shape[-1] ** 0.5
                held = held * g[b, t, head].exp()
                held = held + torch.outer(k, beta[b, t, head] * (value[b, t, head] - held.T @ k))
                outputs[b, t, head] = held.T @ q
            state = state.clone()
            state[b, head] = held
    return outputs, state


@given(
    st.integers(1, 2), st.integers(1, 9), st.integers(1, 2), st.integers(1, 3), st.booleans(), st.integers(0, 2**31),
    st.sampled_from([0.01, 1.0, 30.0]),
)  # fmt: skip
def test_it_is_the_rule_token_by_token(
    rows: int, tokens: int, heads: int, groups: int, normed: bool, seed: int, decay: float
) -> None:
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    query, key = random(rows, tokens, heads, 4) / 2, random(rows, tokens, heads, 4) / 2
    value, state = random(rows, tokens, heads * groups, 5), random(rows, heads * groups, 4, 5)
    g, beta = -decay * random(rows, tokens, heads * groups).abs(), random(rows, tokens, heads * groups).sigmoid()
    outputs, after = gated_delta_rule(query, key, value, g, beta, state, normed=normed)
    expected, final = one_by_one(query, key, value, g, beta, state, normed)
    torch.testing.assert_close(outputs.double(), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(after.double(), final, rtol=1e-4, atol=1e-4)


@recent("layers hold the function, and are left as they are")
@pytest.mark.parametrize("module", [qwen, qwen_next])
def test_classes_of_transformers_are_known(module: Any) -> None:
    name = next(name for name, kind in vars(module).items() if name.endswith("GatedDeltaNet"))
    before = vars(module)[CHUNKED]
    forward = short_forward(vars(module)[name])
    assert forward is not None
    own = inspect.unwrap(vars(module)[name].forward)
    assert list(inspect.signature(forward).parameters) == list(inspect.signature(own).parameters)
    assert vars(module)[CHUNKED] is before
    assert short_forward(nn.Linear) is None


@recent("layers hold the function, and are left as they are")
def test_a_twin_takes_short_passes_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    model, sizes = chain_model("qwen3.5"), []

    def counted(query: Tensor, *parts: Tensor, normed: bool) -> tuple[Tensor, Tensor]:
        sizes.append(query.shape[1])
        return gated_delta_rule(query, *parts, normed=normed)

    monkeypatch.setattr(short_passes, "gated_delta_rule", counted)
    twin: Any = twin_of(model, makers=(short_forward,))
    ids = torch.randint(3, 50, (1, 12 + SHORT + 1), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        first = model(input_ids=ids[:, :6], use_cache=True)
        name = "cache" if "cache" in first else "past_key_values"
        for runner in (model, twin):
            held = model(input_ids=ids[:, :6], use_cache=True)[name]
            for start, stop in ((6, 7), (7, 12), (12, 12 + SHORT + 1)):
                logits = runner(input_ids=ids[:, start:stop], use_cache=True, **{name: held}).logits
            if runner is model:
                expected = logits
    linear = model.config.layer_types.count("linear_attention")
    assert sizes == [5] * linear  # not single tokens, and not more than are short
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-4)
