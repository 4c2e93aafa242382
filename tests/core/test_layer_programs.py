"""Layers that run from recordings of themselves give what they give by themselves, bit for bit, and follow changes."""

from __future__ import annotations

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LogitsProcessorList,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.models.llama import modeling_llama

import racer
from racer.core import few_rows, kept_programs, layer_programs, stand_in
from racer.core.kept_programs import KEPT, KeptPrograms
from racer.core.kv_cache import TreeCache
from racer.core.layer_facts import Facts
from racer.core.layer_programs import LayerPrograms
from racer.core.model_runner import ModelRunner
from racer.core.model_state import find_state, state_of
from racer.core.products import as_it_lies
from racer.core.support import probe
from racer.kernels.native.assembling import NotHere
from racer.kernels.native.dense import dense_product
from racer.step.draft_tree import DraftTree

SHAPE: dict[str, Any] = {
    "vocab_size": 97, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 256, "pad_token_id": None,
}  # fmt: skip
MODELS: dict[str, tuple[Any, Any]] = {
    "llama": (LlamaForCausalLM, LlamaConfig),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config),
    "mistral": (MistralForCausalLM, MistralConfig),
    "gemma3": (Gemma3ForCausalLM, Gemma3TextConfig),
    "gemma3-one-head": (Gemma3ForCausalLM, Gemma3TextConfig),  # of keys and values, as the smallest one has
}


def model_of(name: str = "llama", dtype: torch.dtype = torch.float32, **more: Any) -> Any:
    kind, config = MODELS[name]
    shape = SHAPE | ({"sliding_window": 24} if name != "llama" and not name.startswith("qwen") else {}) | more
    shape |= {"num_key_value_heads": 1} if name.endswith("one-head") else {}
    torch.manual_seed(3)
    model = kind(config(**shape)).to(dtype).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn_like(weight) * (0.2 if weight.dim() > 1 else 1.0))
    return model


@pytest.fixture(autouse=True)
def machine_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small weights would be multiplied by torch, which no recording has."""
    try:
        dense_product(False)
    except NotHere as reason:
        pytest.skip(str(reason))
    monkeypatch.setattr(few_rows, "WAYS", (as_it_lies,))


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> list[LayerPrograms]:
    """What calls keep of their layers."""
    made: list[LayerPrograms] = []

    def noted() -> LayerPrograms:
        made.append(LayerPrograms())
        return made[-1]

    monkeypatch.setattr(kept_programs, "LayerPrograms", noted)
    return made


def never(kind: type) -> None:
    return None


def runner_of(model: Any) -> ModelRunner:
    plan = probe(model).plan
    assert plan is not None
    return ModelRunner(model, plan)


def tree_of(nodes: int, seed: int) -> DraftTree:
    generator = torch.Generator().manual_seed(seed)
    parent = [-1] + [int(torch.randint(max(0, i - 5), i, (1,), generator=generator)) for i in range(1, nodes)]
    tokens = torch.randint(97, (1, nodes), generator=generator)
    return DraftTree(tokens, torch.tensor([parent]), torch.tensor([nodes]))


def passes(model: Any, sizes: list[int], between: Any = None) -> list[Tensor]:
    """The logits of trees of these sizes, each followed by the commit of two of its nodes."""
    runner = runner_of(model)
    with torch.no_grad():
        cache = runner.open([0], 40)
        list(runner.prefill(torch.tensor([[5, 9, 2, 7]]), cache, 64, 1))
        found = []
        for index, nodes in enumerate(sizes):
            if between is not None:
                between(index)
            found.append(runner.forward(tree_of(nodes, index), cache, 1000).clone())
            path = torch.tensor([[0, min(1, nodes - 1)]])
            cache.commit(path, [min(2, nodes)])
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", MODELS)
def test_recorded_passes_are_the_same_bits(
    name: str, dtype: torch.dtype, kept: list[LayerPrograms], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(name, dtype)
    sizes = [1, 1, 1, 7, 7, 24, 3, 1, 32, 31, 1, 2, 2]  # beyond 32, attention by itself is torch's
    recorded = passes(model, sizes)
    programs = kept[-1]
    assert {kind for _, kind in programs.made}, programs.refusal
    assert all(program is not None for program in programs.made.values()), programs.refusal
    assert programs.chains
    monkeypatch.setattr(stand_in, "programmed_forward", never)
    for mine, theirs in zip(recorded, passes(model, sizes), strict=True):
        assert torch.equal(mine, theirs)


MODEL = model_of()


@given(sizes=st.lists(st.integers(1, 66), min_size=1, max_size=9))
def test_any_sizes_one_after_the_other(sizes: list[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        recorded = passes(MODEL, sizes)
        patch.setattr(stand_in, "programmed_forward", never)
        for mine, theirs in zip(recorded, passes(MODEL, sizes), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def test_decoding_is_that_of_generate(kept: list[LayerPrograms]) -> None:
    model, prompt = model_of(), torch.tensor([[5, 9, 2, 7, 5, 9, 2]])
    plain = model.generate(prompt, max_new_tokens=60, do_sample=False)
    for drafter in ("none", "racer", "recycling"):
        config = racer.DecodeConfig(drafter=drafter, budget=12)
        ours = racer.generate(model, prompt, config=config, max_new_tokens=60, do_sample=False)
        assert torch.equal(ours, plain)
    assert any(programs.chains for programs in kept)


CHANGES: dict[str, Any] = {
    "a weight written to": lambda model: model.model.layers[1].mlp.up_proj.weight.data.mul_(-1.5),
    "a weight exchanged": lambda model: setattr(
        model.model.layers[1].mlp.up_proj, "weight", nn.Parameter(model.model.layers[1].mlp.up_proj.weight * -1.5)
    ),
    "the data of a weight exchanged": lambda model: setattr(
        model.model.layers[1].mlp.up_proj.weight, "data", model.model.layers[1].mlp.up_proj.weight.data * -1.5
    ),
    "a norm": lambda model: setattr(model.model.layers[0].input_layernorm, "weight", nn.Parameter(torch.ones(64) * 3)),
    "a module exchanged": lambda model: setattr(model.model.layers[2].mlp, "gate_proj", nn.Linear(64, 96, bias=False)),
    "a hook": lambda model: model.model.layers[1].mlp.register_forward_hook(lambda module, given, out: out * 0.25),
    "a hook before": lambda model: model.model.layers[0].self_attn.o_proj.register_forward_pre_hook(
        lambda module, given: (given[0] * 2,)
    ),
    "a layer exchanged": lambda model: model.model.layers.__setitem__(1, model.model.layers[0]),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_changes_between_passes_is_seen(change: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def run() -> list[Tensor]:
        model = model_of()
        torch.manual_seed(1)
        return passes(model, [3, 3, 3, 5, 3, 3], lambda index: change(model) if index == 3 else None)

    # what is read before it is written shows: a list that was filled in for two passes of one layer did
    monkeypatch.setattr(torch, "empty_like", lambda like, **_: torch.full_like(like, float("nan")))

    recorded = run()
    monkeypatch.setattr(stand_in, "programmed_forward", never)
    plain = run()
    unchanged = passes(model_of(), [3, 3, 3, 5, 3])
    assert not torch.allclose(plain[3], unchanged[3]) or change is CHANGES["a layer exchanged"]
    for mine, theirs in zip(recorded, plain, strict=True):
        torch.testing.assert_close(mine, theirs)


def nudged(how: str) -> Any:
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer

    class Nudge(LlamaDecoderLayer):
        """Not a decoder layer of its own: it changes what comes by, now and then."""

        passes = 0

        def forward(self, hidden_states: Tensor, *given: Any, **named: Any) -> Tensor:
            type(self).passes += 1
            if type(self).passes % 3 == 0:
                return hidden_states.mul_(1.5) if how == "in place" else hidden_states * 1.5
            return hidden_states

    model = model_of(num_hidden_layers=4)
    model.model.layers[1] = Nudge(model.config, 1).eval()
    return model


@pytest.mark.parametrize("how", ["in place", "anew"])
def test_a_layer_that_is_not_given_what_the_one_before_gave_runs_again(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = [2] * 12
    model = nudged(how)
    plan = probe(model_of(num_hidden_layers=4)).plan

    def run() -> list[Tensor]:
        type(model.model.layers[1]).passes = 0
        runner = ModelRunner(model, plan)  # type: ignore[arg-type]
        with torch.no_grad():
            cache = runner.open([0], 80)
            found = []
            for index, nodes in enumerate(sizes):
                found.append(runner.forward(tree_of(nodes, index), cache, 1000).clone())
                cache.commit(torch.tensor([[0, 1]]), [2])
        return found

    recorded = run()
    monkeypatch.setattr(stand_in, "programmed_forward", never)
    for mine, theirs in zip(recorded, run(), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_an_operation_that_is_not_known_is_never_left_out(kept: list[LayerPrograms]) -> None:
    model = model_of()

    class Sine(nn.Module):
        def forward(self, rows: Tensor) -> Tensor:
            return rows.sin()

    model.model.layers[1].mlp.act_fn = Sine()
    prompt = torch.tensor([[5, 9, 2, 7, 5, 9, 2]])
    plain = model.generate(prompt, max_new_tokens=30, do_sample=False)
    config = racer.DecodeConfig(drafter="recycling", budget=8)
    assert torch.equal(racer.generate(model, prompt, config=config, max_new_tokens=30, do_sample=False), plain)
    assert "aten.sin" in kept[-1].refusal


def test_batches_are_decoded_as_ever_and_their_last_rows_from_recordings(kept: list[LayerPrograms]) -> None:
    model, prompts = model_of(), torch.tensor([[5, 9, 2, 7], [1, 2, 3, 4]])
    plain = model.generate(prompts, max_new_tokens=40, do_sample=False)
    config = racer.DecodeConfig(drafter="racer", budget=8)
    assert torch.equal(racer.generate(model, prompts, config=config, max_new_tokens=40, do_sample=False), plain)


def test_what_autocast_asks_for_is_not_recorded(kept: list[LayerPrograms]) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        racer.generate(model_of(), torch.tensor([[5, 9, 2, 7]]), max_new_tokens=8, do_sample=False)
    assert not kept[-1].made


def test_a_calls_cache_goes_with_it(kept: list[LayerPrograms], monkeypatch: pytest.MonkeyPatch) -> None:
    caches: list[weakref.ref[TreeCache]] = []
    original = TreeCache.__init__

    def noted(self: TreeCache, *arguments: Any, **named: Any) -> None:
        original(self, *arguments, **named)
        caches.append(weakref.ref(self))

    monkeypatch.setattr(TreeCache, "__init__", noted)
    model, prompt = model_of(), torch.tensor([[5, 9, 2, 7]])
    racer.generate(model, prompt, max_new_tokens=12, do_sample=False)  # with the trial, which makes caches too
    assert kept[-1].chains
    gc.collect()
    caches.clear()
    gc.disable()
    try:
        racer.generate(model, prompt, max_new_tokens=12, do_sample=False)
        assert caches
        assert all(cache() is None for cache in caches)
    finally:
        gc.enable()


# -- from call to call ------------------------------------------------------------------------------------------------

PROMPT = torch.tensor([[5, 9, 2, 7, 5, 9, 2]])


def decoded(model: Any, drafter: str = "recycling") -> Tensor:
    config = racer.DecodeConfig(drafter=drafter, budget=8)
    scores = racer.generate(
        model,
        PROMPT,
        config=config,
        max_new_tokens=24,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    return torch.cat(scores.logits)


def test_the_next_call_runs_from_what_the_one_before_recorded(
    kept: list[LayerPrograms], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of()
    first = decoded(model)
    for drafter in ("none", "recycling", "recycling"):
        decoded(model, drafter=drafter)
    used = kept[-1]
    assert used.made
    monkeypatch.setattr(layer_programs, "recorded", None)  # nothing is written down any more
    before = len(kept)
    torch.testing.assert_close(decoded(model), first, rtol=1e-4, atol=1e-4)  # other trees, as drafters learn
    assert len(kept) == before
    gone = weakref.ref(used)
    racer.release(model)
    kept.clear()
    del used
    gc.collect()
    assert gone() is None


def test_a_call_that_runs_while_all_is_released_leaves_no_recordings() -> None:
    model, released = model_of(), []

    def release(ids: Tensor, scores: Tensor) -> Tensor:
        if not released:
            racer.release(model)
            released.append(ids.shape[1])
        return scores

    decoded(model)
    how: dict[str, Any] = {"max_new_tokens": 12, "do_sample": False, "logits_processor": LogitsProcessorList([release])}
    racer.generate(model, PROMPT, **how)
    assert released
    kept = find_state(model).find(KeptPrograms)
    assert kept is None or not kept._kept


def test_recordings_go_with_the_model(kept: list[LayerPrograms]) -> None:
    model = model_of()
    decoded(model)
    gone, programs = weakref.ref(model), weakref.ref(kept[-1])
    assert kept[-1].made
    kept.clear()
    del model
    gc.collect()
    assert gone() is None
    assert programs() is None


def test_a_cache_that_grows_is_followed(kept: list[LayerPrograms], monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(max_position_embeddings=2048)
    sizes = [1, 24, 1, 24, 1] + [24, 1] * 30
    runner = runner_of(model)

    def run(runner: ModelRunner) -> list[Tensor]:
        found = []
        with torch.no_grad():
            cache = runner.open([0], 40)
            for index, nodes in enumerate(sizes):
                found.append(runner.forward(tree_of(nodes, index), cache, 1500).clone())
                cache.commit(torch.arange(nodes)[None], [nodes])
        assert cache.moves
        return found

    recorded = run(runner)
    assert kept[-1].chains
    assert len(kept[-1].made) == 2 * 3, "three layers, of one node and of several: once, however often the cache grew"
    monkeypatch.setattr(stand_in, "programmed_forward", never)
    for mine, theirs in zip(recorded, run(runner_of(model)), strict=True):
        assert torch.equal(mine, theirs)


def _to_and_back(model: Any) -> None:
    model.to(torch.bfloat16).to(torch.float32)


def _louder(self: Any, rows: Tensor) -> Tensor:
    product: Tensor = self.down_proj(self.act_fn(self.gate_proj(rows)) * self.up_proj(rows)) * 1.5
    return product


def _turned_back(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
    return query * cos[:, None], key * cos[:, None]


BETWEEN_CALLS: dict[str, Any] = {
    name: lambda model, _, change=change: change(model)
    for name, change in CHANGES.items()
    if name not in ("a hook", "a hook before", "a layer exchanged")  # such models are decoded plainly, or make no sense
} | {
    "a number of a norm": lambda model, _: setattr(model.model.layers[1].input_layernorm, "variance_epsilon", 0.5),
    "how queries are scaled": lambda model, _: setattr(model.model.layers[0].self_attn, "scaling", 0.9),
    "the attention implementation": lambda model, _: model.set_attn_implementation("eager"),
    "a width of the configuration": lambda model, _: setattr(model.config, "rms_norm_eps", 0.5),  # not read any more
    "an activation": lambda model, _: setattr(model.model.layers[1].mlp, "act_fn", nn.Tanh()),
    "the dtype, and back": lambda model, _: _to_and_back(model),
    "the forward of a class": lambda model, patch: patch.setattr(type(model.model.layers[1].mlp), "forward", _louder),
    "the forward of a norm's class": lambda model, patch: patch.setattr(
        type(model.model.norm), "forward", lambda self, rows: rows * self.weight * 0.5
    ),
    "a function that a class calls": lambda _, patch: patch.setattr(
        modeling_llama, "apply_rotary_pos_emb", _turned_back
    ),
}


@pytest.mark.parametrize("change", BETWEEN_CALLS.values(), ids=BETWEEN_CALLS)
def test_what_changes_between_calls_is_seen(change: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of()
    before = decoded(model)
    torch.testing.assert_close(decoded(model), before, rtol=1e-4, atol=1e-4)
    change(model, monkeypatch)
    ours = decoded(model)
    plain = model.generate(PROMPT, max_new_tokens=24, do_sample=False, output_logits=True, return_dict_in_generate=True)
    torch.testing.assert_close(ours, torch.cat(plain.logits), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(decoded(model), torch.cat(plain.logits), rtol=1e-3, atol=1e-3)


def test_what_was_set_for_a_while_within_a_call_is_not_kept() -> None:
    model = model_of()
    module, own = model.model.layers[1].self_attn, model.model.layers[1].self_attn.scaling

    def drafts_late(ids: Tensor, scores: Tensor) -> Tensor:
        """Sets it otherwise after lone nodes were recorded, and before several are."""
        module.scaling = own * 3 if ids.shape[1] > len(PROMPT[0]) + 6 else own
        return scores

    config = racer.DecodeConfig(drafter="recycling", budget=8)
    how: dict[str, Any] = {"config": config, "max_new_tokens": 24, "do_sample": False}
    racer.generate(model, PROMPT, logits_processor=LogitsProcessorList([drafts_late]), **how)
    module.scaling = own
    plain = model.generate(PROMPT, max_new_tokens=24, do_sample=False, output_logits=True, return_dict_in_generate=True)
    torch.testing.assert_close(decoded(model), torch.cat(plain.logits), rtol=1e-3, atol=1e-3)


def test_a_property_of_a_class_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of()
    facts = Facts().of(model.model.layers[0])
    assert Facts().of(model.model.layers[0]) == facts
    monkeypatch.setattr(type(model.model.layers[0].mlp), "gain", property(lambda self: 2), raising=False)
    other = Facts().of(model.model.layers[0])
    assert other != facts
    monkeypatch.setattr(type(model.model.layers[0].mlp), "gain", property(lambda self: 3))
    assert Facts().of(model.model.layers[0]) != other


def test_calls_at_the_same_time_have_recordings_of_their_own(kept: list[LayerPrograms]) -> None:
    model = model_of()
    prompts = [torch.tensor([[seed, 9, 2, 7 + seed]]) for seed in range(6)]
    plain = [model.generate(prompt, max_new_tokens=40, do_sample=False) for prompt in prompts]

    def ours(prompt: Tensor) -> Tensor:
        config = racer.DecodeConfig(drafter="recycling", budget=8)
        tokens: Tensor = racer.generate(model, prompt, config=config, max_new_tokens=40, do_sample=False)
        return tokens

    with ThreadPoolExecutor(3) as pool:
        for mine, theirs in zip(pool.map(ours, prompts * 3), plain * 3, strict=True):
            assert torch.equal(mine, theirs)
    assert all(len(calls) <= KEPT for calls in state_of(model).part(KeptPrograms)._kept.values())
