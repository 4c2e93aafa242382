"""What a trial may not see, and must not touch: hooks by position, overrides by token, memories of their own."""

from __future__ import annotations

import copy
import inspect
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.modules.module import register_module_forward_hook
from transformers import LlamaForCausalLM

import racer
from racer import Decoder, PlainDecodingWarning
from support.generate_calls import LOGITS, Either, Plain, call, faces, judge
from support.generate_models import PAD, build, prompts

HOW: dict[str, Any] = {**prompts(), "max_new_tokens": 12, "do_sample": False, "pad_token_id": PAD}
ONE: dict[str, Any] = {**HOW, **prompts(1)}
Hook = Callable[[Any, Any, torch.Tensor], torch.Tensor]


def _last(module: Any, given: Any, out: torch.Tensor) -> torch.Tensor:
    """Steers the last position alone."""
    out = out.clone()
    out[:, -1] += 1.5
    return out


def _prompt(module: Any, given: Any, out: torch.Tensor) -> torch.Tensor:
    """Steers prompts alone."""
    return out + 1.0 if out.shape[1] > 1 else out


def _new(module: Any, given: Any, out: torch.Tensor) -> torch.Tensor:
    """Steers new tokens alone."""
    return out + 1.0 if out.shape[1] == 1 else out


HOOKS = [_last, _prompt, _new]


def pair() -> tuple[Any, Any]:
    return build("llama"), racer.attach(build("llama"), LOGITS)


def same(plain: Any, attached: Any, how: dict[str, Any] = HOW) -> None:
    judge(call(plain.generate, how), call(attached.generate, how), Either())


@pytest.mark.parametrize("used", [False, True], ids=["unused", "used"])
@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook.__name__)
def test_hooks_that_look_at_the_position(hook: Hook, used: bool) -> None:
    plain, attached = pair()
    if used:
        same(plain, attached)
    for model in (plain, attached):
        model.model.layers[0].mlp.register_forward_hook(hook)
    same(plain, attached)
    same(plain, attached, ONE)


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook.__name__)
def test_hooks_of_all_modules(hook: Hook) -> None:
    plain, attached = pair()
    same(plain, attached)
    handle = register_module_forward_hook(
        lambda module, given, out: hook(module, given, out) if type(module).__name__ == "LlamaMLP" else None
    )
    try:
        same(plain, attached)
    finally:
        handle.remove()
    same(plain, attached)


def test_hooks_with_a_memory_are_called_by_generate_alone() -> None:
    """A trial of the model would advance them."""

    class Counts:
        def __init__(self) -> None:
            self.calls = 0

        def __call__(self, module: Any, given: Any, out: Any) -> Any:
            self.calls += 1
            out.logits[..., self.calls * 7 % out.logits.shape[-1]] += 600
            return out

    plain, attached = build("llama"), build("llama")
    for model in (plain, attached):
        model.register_forward_hook(Counts())
    same(plain, racer.attach(attached, LOGITS))


class SwapsTokens(LlamaForCausalLM):  # type: ignore[misc]
    """Shows itself only where the text has a certain token."""

    def prepare_inputs_for_generation(self, input_ids: Any, attention_mask: Any = None, **how: Any) -> Any:
        made = super().prepare_inputs_for_generation(input_ids, attention_mask=attention_mask, **how)
        made["input_ids"] = torch.where(made["input_ids"] == 85, 84, made["input_ids"])
        return made


class ForbidsTokens(LlamaForCausalLM):  # type: ignore[misc]
    def _update_model_kwargs_for_generation(self, outputs: Any, how: Any, **more: Any) -> Any:
        outputs.logits[..., 80] = -1e4
        return super()._update_model_kwargs_for_generation(outputs, how, **more)


@pytest.mark.parametrize("kind", [SwapsTokens, ForbidsTokens], ids=lambda kind: kind.__name__)
def test_overrides_that_a_trial_may_not_meet(kind: type) -> None:
    plain = build("llama")
    plain.__class__ = kind
    same(plain, racer.attach(copy.deepcopy(plain), LOGITS))


@pytest.mark.parametrize("kind", [SwapsTokens, ForbidsTokens], ids=lambda kind: kind.__name__)
def test_overrides_that_come_after_a_call(kind: type) -> None:
    plain, attached = pair()
    same(plain, attached)
    for model in (plain, attached):
        model.__class__ = kind
    same(plain, attached)


def test_a_generate_of_the_users_own_is_used_and_given_back() -> None:
    def short(self: Any, *args: Any, **how: Any) -> Any:
        return type(self).generate(self, *args, **{**how, "max_new_tokens": 3})

    plain, attached = build("llama"), build("llama")
    for model in (plain, attached):
        model.generate = types.MethodType(short, model)
    own = attached.generate
    with pytest.warns(PlainDecodingWarning, match="has been replaced"):
        racer.attach(attached, LOGITS)
    assert attached.generate == own
    same(plain, attached)
    judge(call(plain.generate, HOW), call(faces(attached, None)["racer.generate"], HOW), Plain("has been replaced"))
    racer.detach(attached)
    assert attached.generate == own


def test_prompt_tuning_around_an_attached_model() -> None:
    peft = pytest.importorskip("peft")
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    models = []
    for base in (build("llama").float(), racer.attach(build("llama").float(), LOGITS)):
        torch.manual_seed(0)
        models.append(peft.get_peft_model(base, config).eval())
    same(*models)


def test_a_decoder_takes_what_attach_takes() -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    config = peft.LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False)
    plain = peft.get_peft_model(build("llama").float(), config).eval()
    same(plain, Decoder(copy.deepcopy(plain), LOGITS))


def test_an_attached_assistant_speaks_once_at_most() -> None:
    plain, assistant = build("llama"), build("llama", 3)
    expected = call(plain.generate, {**ONE, "assistant_model": assistant})
    ours = call(plain.generate, {**ONE, "assistant_model": racer.attach(build("llama", 3), LOGITS)})
    judge(expected, ours, Either())


def test_a_chat_keeps_its_cache() -> None:
    """A conversation through one cache, as in transformers' own guide."""
    from transformers import DynamicCache

    def talk(model: Any) -> tuple[torch.Tensor, int]:
        cache, ids = DynamicCache(config=model.config), ONE["input_ids"]
        for turn in range(3):
            ids = model.generate(
                input_ids=ids, past_key_values=cache, max_new_tokens=6, do_sample=False, pad_token_id=PAD
            )
            ids = torch.cat([ids, torch.tensor([[40 + turn, 41]])], 1)
        return ids, cache.get_seq_length()

    plain, attached = pair()
    (expected, length), (got, filled) = talk(plain), talk(attached)
    assert torch.equal(got, expected)
    assert filled == length


def test_an_output_has_transformers_fields() -> None:
    plain, attached = pair()
    how = {**HOW, "return_dict_in_generate": True}
    assert list(attached.generate(**how).keys()) == list(plain.generate(**how).keys())


def test_the_signature_is_generates() -> None:
    plain, attached = pair()
    assert list(inspect.signature(attached.generate).parameters) == list(inspect.signature(plain.generate).parameters)


def test_prefix_functions_with_a_memory() -> None:
    class Counts:
        def __init__(self) -> None:
            self.calls = 0

        def __call__(self, row: int, prefix: torch.Tensor) -> list[int]:
            self.calls += 1
            return [10 + self.calls % 30, 50]

    plain, attached = pair()
    same(plain, attached, {**ONE, "prefix_allowed_tokens_fn": Counts()})


@pytest.mark.parametrize("name", ["llama", "gemma3", "mistral"])
def test_eager_attention_drafts_for_padded_rows(name: str) -> None:
    plain = build(name).float()  # in float64, transformers' own answer is NaN
    plain.set_attn_implementation("eager")
    expected = call(plain.generate, HOW)
    ours = call(faces(plain, None)["racer.generate"], HOW)
    judge(expected, ours, Either())
    assert not ours.reasons
