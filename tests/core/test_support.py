"""What cannot be verified with trees is decoded plainly, and a model that changed is examined anew."""

from __future__ import annotations

import copy
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import (
    FalconConfig,
    FalconForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)

import racer
from racer import DecodeConfig, Decoder
from racer.core.subject import subject_of
from racer.core.support import probe
from racer.errors import UnsupportedGeneration, UnsupportedModel
from racer.hf.generate import PlainDecodingWarning
from racer.testing import HostileDrafter, decode
from support.tiny_models import SMALL, VOCAB, alone, batch, tiny
from support.versions import RECENT

HOW: dict[str, Any] = {"max_new_tokens": 12, "do_sample": False, "return_dict_in_generate": True}
HOSTILE = DecodeConfig(drafter=HostileDrafter(1, VOCAB), budget=9)


def llama(**more: Any) -> Any:
    torch.manual_seed(4)
    model = LlamaForCausalLM(LlamaConfig(**(SMALL | more))).double().eval()
    for parameter in model.parameters():
        parameter.data.mul_(4)
    return model


def test_models_that_cannot_take_trees_are_decoded_by_chains() -> None:
    """Falcon's ALiBi ignores position ids: the trial tree shows it, nobody has to know."""
    torch.manual_seed(1)
    config = FalconConfig(
        vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, alibi=True, pad_token_id=0,
        eos_token_id=None,
    )  # fmt: skip
    model = FalconForCausalLM(config).double().eval()
    support = probe(model)
    assert (support.way, support.reason) == ("chain", "")
    assert support.tree_reason.startswith("a trial tree")
    got = racer.generate(model, **alone(1), max_new_tokens=12, do_sample=False, return_dict_in_generate=True)
    assert got.racer_stats.steps
    assert torch.equal(got.sequences, model.generate(**alone(1), max_new_tokens=12, do_sample=False))


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_rotary_embeddings_that_depend_on_length_are_decoded_plainly(kind: str) -> None:
    rope = {"rope_type": kind, "rope_theta": 10000.0, "factor": 2.0, "original_max_position_embeddings": 32}
    if kind == "longrope":
        rope |= {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    model = LlamaForCausalLM(LlamaConfig(**SMALL, rope_parameters=rope)).double().eval()
    with pytest.warns(PlainDecodingWarning, match=f"'{kind}' rotary embedding"):
        out = racer.generate(model, **alone(2), max_new_tokens=40, do_sample=False, return_dict_in_generate=True)
    assert torch.equal(out.sequences, model.generate(**alone(2), max_new_tokens=40, do_sample=False))
    assert out.racer_stats is None


def test_a_resized_model_is_examined_anew() -> None:
    torch.manual_seed(4)
    model = LlamaForCausalLM(LlamaConfig(**SMALL)).double().eval()
    assert probe(model).vocab_size == VOCAB
    model.resize_token_embeddings(VOCAB + 5, mean_resizing=False)
    assert probe(model).vocab_size == VOCAB + 5


def _append(model: Any) -> None:
    model.model.layers.append(copy.deepcopy(model.model.layers[0]))
    model.model.layers[-1].self_attn.layer_idx = len(model.model.layers) - 1
    model.config.num_hidden_layers += 1


def _exchange(model: Any) -> None:
    class Louder(type(model.model.layers[1].mlp)):  # type: ignore[misc]
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    model.model.layers[1].mlp.__class__ = Louder


CHANGES: dict[str, Callable[[Any], Any]] = {
    "nothing": lambda model: None,
    "float32": lambda model: model.float(),
    "resized": lambda model: model.resize_token_embeddings(VOCAB + 9, mean_resizing=False),
    "smaller": lambda model: model.resize_token_embeddings(VOCAB - 9),
    "eager": lambda model: model.set_attn_implementation("eager"),
    "appended layer": _append,
    "exchanged layer": _exchange,
    "fewer layers": lambda model: (model.model.layers.pop(1), setattr(model.config, "num_hidden_layers", 1)),
    "a nested setting": lambda model: model.config.rope_parameters.update(rope_theta=5.0),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_decoder_whose_model_has_changed_is_as_a_fresh_one(change: str) -> None:
    model, prompt = llama(), [[5, 6, 7, 8]]
    decoder = Decoder(model, DecodeConfig(drafter=HostileDrafter(1, VOCAB - 9), budget=9))

    def plainly() -> list[list[int]]:
        tokens = model.generate(torch.tensor(prompt), max_new_tokens=20, do_sample=False)[:, 4:].tolist()
        return list(tokens)

    assert decode(decoder, prompt, 20)[0] == plainly()
    known = subject_of(model)
    CHANGES[change](model)
    assert (subject_of(model) == known) == (change == "nothing")
    after, stats = decode(decoder, prompt, 20)
    assert after == plainly()
    assert max(stats.nodes) > 1


def test_a_decoder_whose_model_takes_no_trees_any_more_says_so() -> None:
    model = llama()
    decoder = Decoder(model, HOSTILE)

    def stretch() -> None:
        model.config.rope_parameters = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
        model.config.max_position_embeddings = 4

    for change, reason in (
        (lambda: model.train(), r"model\.eval"),
        (lambda: setattr(model.eval().config, "_attn_implementation", "nonesuch"), "nonesuch"),
        (stretch, "dynamic"),
    ):
        change()
        with pytest.raises(UnsupportedGeneration, match=reason):
            decode(decoder, [[5, 6, 7]], 10)


def test_models_that_must_be_prepared_otherwise_are_decoded_plainly() -> None:
    model = llama()
    plain = model.generate(**alone(1), **HOW).sequences
    racer.attach(model, HOSTILE)
    model.train()  # this one has nothing that is random
    with pytest.warns(PlainDecodingWarning, match="training mode"):
        assert torch.equal(model.generate(**alone(1), **HOW).sequences, plain)
    with pytest.raises(UnsupportedModel, match=r"model\.eval"):
        racer.attach(model)
    with pytest.raises(UnsupportedModel, match=r"model\.eval"):
        Decoder(model)


@pytest.mark.filterwarnings("ignore")  # of accelerate's own
def test_models_whose_weights_are_elsewhere_are_decoded_plainly() -> None:
    from accelerate import cpu_offload

    model = llama().float()
    plain = model.generate(**alone(1), **HOW).sequences
    cpu_offload(model, execution_device=torch.device("cpu"))
    assert model.device.type == "meta"
    assert "meta device" in probe(model).reason
    with pytest.warns(PlainDecodingWarning, match="meta device"):
        assert torch.equal(racer.generate(model, **alone(1), **HOW).sequences, plain)


def test_autocast_is_allowed_its_own_rounding() -> None:
    model = llama().float()
    assert probe(model).plan is not None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plan = probe(model).plan
        assert plan is not None
        assert not RECENT or plan.layout.values[0].dtype == torch.bfloat16
        assert racer.generate(model, **alone(1), **HOW).racer_stats.steps
    assert probe(model).plan is not plan


class Shifted(LlamaForCausalLM):  # type: ignore[misc]  # transformers is untyped here
    """Prepares its inputs in its own way."""

    def prepare_inputs_for_generation(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> Any:
        inputs = super().prepare_inputs_for_generation(input_ids, attention_mask=attention_mask, **kwargs)
        return inputs | {"input_ids": (inputs["input_ids"] + 1) % VOCAB}


class Counting(LlamaForCausalLM):  # type: ignore[misc]
    """Carries something from step to step."""

    def _update_model_kwargs_for_generation(self, outputs: Any, model_kwargs: Any, **more: Any) -> Any:
        kept = super()._update_model_kwargs_for_generation(outputs, model_kwargs, **more)
        kept["position_ids"] = kept["position_ids"] + 1
        return kept


class Backwards(LlamaForCausalLM):  # type: ignore[misc]
    """Has a loop of its own."""

    def _sample(self, input_ids: torch.Tensor, **more: Any) -> Any:
        return super()._sample(input_ids.flip(1), **more)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Shifted, "a prepare_inputs_for_generation of its own"),
        (Counting, "a _update_model_kwargs_for_generation of its own"),
        (Backwards, "a _sample of its own"),
    ],
)
@pytest.mark.parametrize("inputs", [alone(2), batch()], ids=["alone", "batch"])
@pytest.mark.parametrize("from_transformers", [False, True])
def test_whoever_prepares_inputs_otherwise_is_decoded_plainly(
    kind: Any, reason: str, inputs: dict[str, torch.Tensor], from_transformers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if from_transformers and kind is not Backwards:  # then it is tried
        name, reason = reason.split()[1], "differ from generate's"
        monkeypatch.setattr(getattr(kind, name), "__module__", "transformers.models.nonesuch")
    torch.manual_seed(4)
    model = kind(LlamaConfig(**SMALL)).double().eval()
    plain = model.generate(**inputs, **HOW).sequences
    if kind is Shifted and from_transformers:  # chains are prepared by the model itself
        assert reason in probe(model).tree_reason
        out = racer.generate(model, **inputs, **HOW)
        assert out.racer_stats.steps
        assert torch.equal(out.sequences, plain)
        return
    with pytest.warns(PlainDecodingWarning, match=reason):
        assert torch.equal(racer.generate(model, **inputs, **HOW).sequences, plain)


@pytest.mark.parametrize("name", ["prepare_inputs_for_generation", "_update_model_kwargs_for_generation", "_sample"])
def test_what_is_replaced_on_the_instance_is_seen_while_it_is(name: str) -> None:
    model = llama()
    assert probe(model).plan is not None
    held = getattr(model, name)
    setattr(model, name, held)  # its own, as PEFT leaves it
    assert probe(model).plan is not None
    setattr(model, name, types.MethodType(lambda self, *args, **more: held(*args, **more), model))
    assert f"{name} has been replaced" in probe(model).reason
    delattr(model, name)
    assert probe(model).plan is not None


def test_settings_of_the_model_do_not_count() -> None:
    """Stop strings without a tokenizer, beams and an end after one token must not end the trial."""
    model = llama()
    settings = model.generation_config
    settings.stop_strings, settings.num_beams, settings.eos_token_id = ["x"], 3, list(range(VOCAB))
    settings.repetition_penalty, settings.max_new_tokens, settings.do_sample = 1.5, 1, True
    assert probe(model).plan is not None, probe(model).reason
    assert (settings.stop_strings, settings.num_beams, settings.max_new_tokens) == (["x"], 3, 1)


def test_no_random_number_is_drawn() -> None:
    class Noisy(LlamaForCausalLM):  # type: ignore[misc]
        def forward(self, *args: Any, **more: Any) -> Any:
            output = super().forward(*args, **more)
            output.logits = output.logits + torch.randn_like(output.logits)
            return output

    for kind in (LlamaForCausalLM, Noisy):
        model = kind(LlamaConfig(**SMALL)).eval()
        before = torch.random.get_rng_state()
        assert (probe(model).plan is None) == (kind is Noisy)
        assert torch.equal(torch.random.get_rng_state(), before)


def test_eager_attention_that_cannot_pad_in_float64_is_plain_for_padded_batches_alone() -> None:
    """transformers makes NaN of it: the mask's minimum is -inf as float32."""
    model = tiny("llama", "eager")
    support = probe(model)
    assert support.plan is not None
    assert "differ from generate's" in support.padding_reason
    assert decode(Decoder(model, HOSTILE), [[1, 2, 3]], 9)
    with pytest.raises(UnsupportedGeneration, match="left-padded rows"):
        decode(Decoder(model, HOSTILE), [[1, 2, 3], [4]], 9)


@pytest.mark.parametrize("part", ["get_text_config", "get_input_embeddings"])
def test_a_model_that_cannot_even_be_looked_at_is_decoded_plainly(part: str) -> None:
    def ambiguous(*_: Any, **__: Any) -> Any:
        raise ValueError("there are two of them")

    model = llama()
    setattr(model.config if part == "get_text_config" else model, part, ambiguous)
    assert "ValueError: there are two of them" in probe(model).reason
