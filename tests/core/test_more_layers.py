"""Layers that store nothing, chunks of attention, rotary embeddings with a border, and positions that are offset."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
from attrs import evolve
from transformers import (
    DynamicCache,
    Llama4ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
)

import racer
from racer import DecodeConfig
from racer.core.masks import MaskPlan
from racer.core.own_loop import CACHE
from racer.core.subject import contents_of
from racer.core.support import probe
from racer.hf.caches import CACHE_FIELD
from racer.hf.generate import PlainDecodingWarning
from racer.testing import HostileDrafter
from support.more_models import BUILD, build
from support.seeds import as_row
from support.tiny_models import SMALL, VOCAB, alone, batch
from support.versions import recent

HOW: dict[str, Any] = {"max_new_tokens": 24, "return_dict_in_generate": True, "pad_token_id": 0}
CONFIG = DecodeConfig(drafter=HostileDrafter(3, VOCAB), budget=9, prefill_chunk=4)

INDEXED = "deepseek-v3.2"
TREES = [name for name in BUILD if name != INDEXED]


@recent("it has no indexed attention")
def test_attention_to_indexed_keys_is_decoded_plainly() -> None:
    """In float32 it may choose other keys of equal scores in a longer pass: the sweep found such texts."""
    model = build(INDEXED)
    with pytest.warns(PlainDecodingWarning, match="indexed attention"):
        got = racer.generate(model, config=CONFIG, **alone(2), **HOW, do_sample=False)
    assert torch.equal(got.sequences, model.generate(**alone(2), **HOW, do_sample=False).sequences)


def same(model: Any, inputs: dict[str, torch.Tensor], **how: Any) -> Any:
    """Decode with trees, and compare with ``generate``."""
    plain = model.generate(**inputs, **HOW | how, do_sample=False).sequences
    out = racer.generate(model, config=CONFIG, **inputs, **HOW | how, do_sample=False)
    assert torch.equal(out.sequences, plain)
    assert max(out.racer_stats.nodes) > 1
    return out


@pytest.mark.parametrize("name", TREES)
def test_trees_say_what_generate_says(name: str) -> None:
    model = build(name)
    support = probe(model, 100 if name != "roberta" else 50)
    assert support.plan is not None, support.reason
    assert not support.padding_reason
    same(model, alone(2))
    same(model, batch())


@pytest.mark.parametrize("name", TREES)
@pytest.mark.parametrize("drafter", [HostileDrafter(3, VOCAB), pytest.param("racer-paper", marks=pytest.mark.slow)])
def test_sampling_is_plain_sampling_and_rows_are_their_solo_runs(name: str, drafter: Any) -> None:
    model, how = build(name), {"max_new_tokens": 24, "do_sample": True, "top_p": 0.9, "top_k": 12, "pad_token_id": 0}
    config = DecodeConfig(drafter=drafter, seed=11, budget=9, prefill_chunk=4)
    together = racer.generate(model, config=config, **batch(), **how)
    assert torch.equal(together, racer.generate(model, config=evolve(config, drafter="none"), **batch(), **how))
    for row in range(3):
        solo = racer.generate(model, config=as_row(config, row), **alone(row), **how)
        assert torch.equal(solo[0, -24:], together[row, -24:])


@pytest.mark.parametrize("name", TREES)
def test_eager_attention_takes_the_same_masks(name: str) -> None:
    model = copy.deepcopy(build(name))
    model.set_attn_implementation("eager")
    same(model, alone(2))  # in float64 transformers makes NaN of left padding


@recent("caches have no layers for those that store nothing")
@pytest.mark.parametrize("name", ["gemma3n", "gemma4"])
def test_layers_that_read_others_keys_are_nowhere_in_the_cache(name: str) -> None:
    plan = probe(build(name)).plan
    assert plan is not None
    assert (plan.layout.stored, plan.layout.layers) == ((0, 1), 4)


@pytest.mark.parametrize("name", ["gemma3n", "gemma4", "llama4"])
@pytest.mark.parametrize("given", [False, True])
def test_a_call_goes_on_from_a_cache_as_plain_decoding_does(name: str, given: bool) -> None:
    model, inputs = build(name), batch()
    mask = torch.cat([inputs["attention_mask"], inputs["attention_mask"].new_ones(3, HOW["max_new_tokens"])], dim=1)
    ends = []
    for decode in (model.generate, partial(racer.generate, model, config=CONFIG)):
        more = {CACHE: DynamicCache(config=model.config)} if given else {}
        out = decode(**inputs, **HOW, do_sample=False, **more)
        kept = getattr(out, CACHE_FIELD)
        again = decode(input_ids=out.sequences, attention_mask=mask, **{CACHE: kept}, **HOW, do_sample=False)
        layers = getattr(again, CACHE_FIELD).layers
        ends.append(
            (again.sequences, [getattr(layer, part, None) for layer in layers for part in ("keys", "indexer_keys")])
        )
    (theirs, their_keys), (ours, our_keys) = ends
    assert torch.equal(theirs, ours)
    for their, our in zip(their_keys, our_keys, strict=True):
        assert (their is None) == (our is None)
        assert their is None or torch.allclose(their, our)


def test_chunks_are_counted_from_the_first_token() -> None:
    """Left-padded rows of every length cross the border of a chunk at another step."""
    model = build("llama4")
    assert MaskPlan.of(model.config).chunk == 8  # type: ignore[union-attr]
    for row in range(3):
        same(model, alone(row))


@pytest.mark.parametrize("chunk", [8, *(pytest.param(chunk, marks=pytest.mark.slow) for chunk in (40, 300))])
@pytest.mark.parametrize("wrong", [-1, 1, None])
def test_a_wrong_chunk_is_noticed(chunk: int, wrong: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(7)
    config = BUILD["llama4"]().config
    config.attention_chunk_size = chunk
    model = Llama4ForCausalLM(config).double().eval()
    model.set_experts_implementation("eager")
    assert probe(model, chunk + 100).plan is not None
    right = MaskPlan.of

    def other(config: Any) -> Any:
        plan = right(config)
        assert isinstance(plan, MaskPlan)
        return MaskPlan(plan.window, plan.layer_types, wrong and chunk + wrong)

    monkeypatch.setattr(MaskPlan, "of", other)
    model = Llama4ForCausalLM(config).double().eval()
    model.set_experts_implementation("eager")
    assert probe(model, chunk + 100).plan is None


@pytest.mark.parametrize("chunk", [64, *(pytest.param(chunk, marks=pytest.mark.slow) for chunk in (8, 1000))])
@pytest.mark.parametrize("shift", [-1, 3, *(pytest.param(shift, marks=pytest.mark.slow) for shift in (-3, 1))])
def test_chunks_that_begin_elsewhere_are_noticed_in_a_small_dtype(
    chunk: int, shift: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted from another slot, say."""
    right = MaskPlan._narrowed

    def other(self: MaskPlan, seen: Any, position: Any, places: Any, layer_type: str) -> Any:
        return right(self, seen, position + shift, places + shift, layer_type)

    torch.manual_seed(7)
    config = BUILD["llama4"]().config
    config.attention_chunk_size = chunk
    model = Llama4ForCausalLM(config).to(torch.bfloat16).eval()
    assert probe(model, chunk + 50).plan is not None
    monkeypatch.setattr(MaskPlan, "_narrowed", other)
    model = Llama4ForCausalLM(config).to(torch.bfloat16).eval()
    support = probe(model, chunk + 50)
    assert support.plan is None or support.padding_reason


class Passing(LlamaForCausalLM):  # type: ignore[misc]  # transformers is untyped here
    """Has no names for most of what it passes on."""

    def forward(self, input_ids: Any = None, attention_mask: Any = None, cache: Any = None, **more: Any) -> Any:
        return super().forward(input_ids=input_ids, attention_mask=attention_mask, **{CACHE: cache}, **more)


class Dropping(Passing):
    def forward(self, input_ids: Any = None, attention_mask: Any = None, cache: Any = None, **more: Any) -> Any:
        more.pop("position_ids", None)
        return super().forward(input_ids, attention_mask, cache, **more)


@pytest.mark.skipif(CACHE != "cache", reason="this transformers calls it otherwise")
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_positions_may_be_passed_on_without_a_name_but_not_dropped(dtype: torch.dtype) -> None:
    torch.manual_seed(4)
    model = Passing(LlamaConfig(**SMALL)).to(dtype).eval()
    assert probe(model).plan is not None, probe(model).reason
    if dtype == torch.float64:
        same(model, batch())
    model = Dropping(LlamaConfig(**SMALL)).to(dtype).eval()  # rounding in bfloat16 would forgive it
    assert "drops position_ids" in probe(model).tree_reason


def stretched(kind: str) -> Any:
    torch.manual_seed(3)
    rope: dict[str, Any] = {"rope_type": kind, "rope_theta": 10000.0, "factor": 2.0}
    if kind == "longrope":
        rope |= {"original_max_position_embeddings": 32, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
        return Phi3ForCausalLM(
            Phi3Config(**SMALL, rope_parameters=rope, original_max_position_embeddings=32)
        ).double().eval()  # fmt: skip
    small = SMALL | {"max_position_embeddings": 32}
    return LlamaForCausalLM(LlamaConfig(**small, rope_parameters=rope)).double().eval()


def test_passes_of_a_longrope_model_do_not_make_it_another() -> None:
    """Each writes its angles anew."""
    model = stretched("longrope")
    before = contents_of(model)
    model(**alone(2))
    assert contents_of(model) == before
    with torch.no_grad():
        model.lm_head.weight.add_(1.0)
    assert contents_of(model) != before


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_a_call_on_the_short_side_of_the_border_is_decoded_with_trees(kind: str) -> None:
    model = stretched(kind)
    for parameter in model.parameters():
        parameter.data.mul_(4)
    for inputs in (alone(2), batch()):
        same(model, inputs, max_new_tokens=21)  # 32 tokens: up to the border
        other = copy.deepcopy(model)  # a long call may leave angles for the next one in some transformers
        with pytest.warns(PlainDecodingWarning, match=f"'{kind}' rotary embedding"):
            out = racer.generate(model, config=CONFIG, **inputs, **HOW | {"max_new_tokens": 30}, do_sample=False)
        plain = other.generate(**inputs, **HOW | {"max_new_tokens": 30}, do_sample=False)
        assert torch.equal(out.sequences, plain.sequences)
        same(model, inputs, max_new_tokens=20)  # after a long call, which leaves its angles behind


def test_no_drafted_node_stands_beyond_the_border() -> None:
    plan = probe(stretched("dynamic")).plan
    assert plan is not None
    assert plan.positions == 32
    assert plan.room(9, 28) == 4
