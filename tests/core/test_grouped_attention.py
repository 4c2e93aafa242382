"""Grouped attention against transformers' own, and who uses it when."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AttentionInterface, FalconConfig, FalconForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from racer import DecodeConfig, Decoder
from racer.core.grouped_attention import GROUPED, grouped, reads_names
from racer.core.support import probe
from racer.testing import HostileDrafter, decode, decode_plainly
from support.tiny_models import SMALL, VOCAB, tiny


@given(
    batch=st.integers(1, 3),
    shared=st.integers(1, 3),
    groups=st.integers(1, 4),
    nodes=st.integers(1, 6),
    past=st.integers(0, 9),
    width=st.integers(1, 5),
    additive=st.booleans(),
    masks=st.sampled_from(["one", "each row", "each head", "none"]),
    seed=st.integers(0, 99),
)
def test_it_is_attention(
    batch: int, shared: int, groups: int, nodes: int, past: int, width: int, additive: bool, masks: str, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    heads, keys = shared * groups, past + nodes
    query, key, value = noise(batch, heads, nodes, 4), noise(batch, shared, keys, 4), noise(batch, shared, keys, width)
    mask = None
    if masks != "none":
        rows, copies = {"one": (1, 1), "each row": (batch, 1), "each head": (batch, heads)}[masks]
        mask = noise(rows, copies, nodes, keys) > 0
        mask[..., 0] = True
        if additive:
            mask = torch.zeros(mask.shape, dtype=torch.float64).masked_fill(~mask, -1e300)
    module: Any = SimpleNamespace(num_key_value_groups=groups, is_causal=True)
    theirs, _ = sdpa_attention_forward(module, query, key, value, mask, scaling=0.3)
    ours, weights = grouped(module, query, key, value, mask, scaling=0.3)
    assert weights is None
    assert ours.is_contiguous()
    torch.testing.assert_close(ours, theirs)


@pytest.fixture
def model() -> Any:
    return copy.deepcopy(tiny("llama"))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Nodes of each call of grouped attention."""
    seen: list[int] = []

    def watched(module: Any, query: torch.Tensor, *given: Any, **more: Any) -> Any:
        seen.append(query.shape[2])
        return grouped(module, query, *given, **more)

    AttentionInterface.register(GROUPED, watched)
    yield seen
    AttentionInterface.register(GROUPED, grouped)


def test_trees_are_scored_with_it_and_the_model_is_left_as_it_was(model: Any, calls: list[int]) -> None:
    support = probe(model)
    assert support.plan is not None
    assert support.plan.groups
    calls.clear()
    got, stats = decode(Decoder(model, DecodeConfig(drafter=HostileDrafter(1, VOCAB), budget=7)), [[1, 2, 3], [4]], 20)
    assert got == decode_plainly(model, [[1, 2, 3], [4]], 20)
    assert set(stats.nodes) <= set(calls)
    assert model.config._attn_implementation == "sdpa"


def test_an_error_leaves_the_model_as_it_was(model: Any) -> None:
    decoder = Decoder(model, DecodeConfig(drafter=HostileDrafter(1, VOCAB), budget=7))
    seen: list[str] = []

    def fails(*_: Any, **__: Any) -> Any:
        seen.append(model.config._attn_implementation)
        raise RuntimeError("out of memory")

    AttentionInterface.register(GROUPED, fails)
    try:
        got, _ = decode(decoder, [[1, 2, 3]], 20)
    finally:
        AttentionInterface.register(GROUPED, grouped)
    assert got == decode_plainly(model, [[1, 2, 3]], 20), "the model itself is run where its twin fails"
    assert seen == ["sdpa"]
    assert model.config._attn_implementation == "sdpa"


def test_whoever_runs_the_model_meanwhile_notices_nothing(model: Any, calls: list[int]) -> None:
    inputs = {"input_ids": torch.tensor([[0, 5, 6, 7], [3, 4, 5, 6]]), "attention_mask": torch.ones(2, 4).long()}
    inputs["attention_mask"][0, 0] = 0
    alone, generated = model(**inputs).logits, model.generate(**inputs, max_new_tokens=9, do_sample=False)
    decoder = Decoder(model, DecodeConfig(drafter=HostileDrafter(1, VOCAB), budget=7))
    calls.clear()

    def watched(module: Any, query: torch.Tensor, *given: Any, **more: Any) -> Any:
        """Another thread's turn, in the midst of a forward pass."""
        before = len(calls)
        assert torch.equal(model(**inputs).logits, alone)
        assert torch.equal(model.generate(**inputs, max_new_tokens=9, do_sample=False), generated)
        assert probe(model) is decoder.support
        assert len(calls) == before
        calls.append(query.shape[2])
        return grouped(module, query, *given, **more)

    AttentionInterface.register(GROUPED, watched)
    got, _ = decode(decoder, [[1, 2, 3]], 4)
    assert calls
    assert got == decode_plainly(model, [[1, 2, 3]], 4)


def test_eager_attention_stays_eager(calls: list[int]) -> None:
    model = copy.deepcopy(tiny("llama", "eager"))
    plan = probe(model).plan
    assert plan is not None
    assert not plan.groups
    assert calls == []


def test_an_attention_chosen_later_stays_chosen(model: Any, calls: list[int]) -> None:
    decoder = Decoder(model, DecodeConfig(drafter=HostileDrafter(1, VOCAB), budget=7))
    calls.clear()
    model.set_attn_implementation("eager")
    got, _ = decode(decoder, [[1, 2, 3]], 20)
    assert calls == []
    assert model.config._attn_implementation == "eager"
    assert got == decode_plainly(model, [[1, 2, 3]], 20)


def test_models_that_ask_for_the_name_go_without() -> None:
    rotary = FalconForCausalLM(FalconConfig(**SMALL, alibi=False, new_decoder_architecture=False)).double().eval()
    assert reads_names(rotary)
    plan = probe(rotary).plan
    assert plan is not None
    assert not plan.groups
    assert not reads_names(tiny("llama"))


@pytest.mark.parametrize("way", ["wrong", "raises"])
def test_a_model_that_it_does_not_suit_goes_without(model: Any, way: str) -> None:
    def broken(module: Any, query: torch.Tensor, *given: Any, **more: Any) -> Any:
        if way == "raises":
            raise ValueError("no such heads")
        output, _ = grouped(module, query, *given, **more)
        return output.roll(1, 1), None

    AttentionInterface.register(GROUPED, broken)
    try:
        plan = probe(model).plan
        assert plan is not None
        assert not plan.groups
        got, _ = decode(Decoder(model, DecodeConfig(drafter=HostileDrafter(1, VOCAB), budget=7)), [[1, 2, 3]], 20)
    finally:
        AttentionInterface.register(GROUPED, grouped)
    assert got == decode_plainly(model, [[1, 2, 3]], 20)
