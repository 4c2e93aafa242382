"""Models reach us wrapped, adapted, compiled, offloaded, in training: same tokens as without us, whatever they are."""

from __future__ import annotations

import copy
import inspect
import pickle
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import racer
from racer import DecodeConfig, PlainDecodingWarning

IDS = torch.tensor([[3, 4, 5, 3, 4, 5, 3]])
CONFIG = DecodeConfig(drafter="logits", budget=8)
HOW: dict[str, Any] = {"max_new_tokens": 20, "do_sample": False, "pad_token_id": 0}


def llama(kind: type[LlamaForCausalLM] = LlamaForCausalLM) -> LlamaForCausalLM:
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(
        vocab_size=64, num_key_value_heads=2, max_position_embeddings=256, eos_token_id=None, bos_token_id=1, **shape
    )
    return kind(config).eval()


def lora(model: Any = None) -> Any:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(task_type="CAUSAL_LM", r=4, init_lora_weights=False)
    adapted = get_peft_model(llama() if model is None else model, config)
    adapted.add_adapter("other", config)
    return adapted.eval()


@contextmanager
def said(reason: str = "") -> Iterator[None]:
    """Inside, there is one warning with this reason; none if there is no reason."""
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        yield
    texts = [str(item.message) for item in heard if item.category is PlainDecodingWarning]
    assert len(texts) == bool(reason), texts
    assert all(reason in text for text in texts)


def same(model: Any, reason: str = "", **how: Any) -> None:
    """Attached and not, the tokens are those of before; decoded with trees, if there is no reason."""
    how = {"input_ids": IDS} | HOW | how
    plain = model.generate(**how)
    with said(reason):
        out = racer.generate(model, config=CONFIG, **how, return_dict_in_generate=True)
    assert torch.equal(out.sequences, plain)
    assert (out.racer_stats is None) == bool(reason)
    assert racer.attach(model, CONFIG) is model
    with said(reason):
        assert torch.equal(model.generate(**how), plain)
    assert racer.detach(model) is model
    with said():
        assert torch.equal(model.generate(**how), plain)


def test_adapters_of_peft() -> None:
    model = lora()
    same(model)
    for change in (lambda: model.set_adapter("other"), model.merge_adapter, model.unmerge_adapter):
        change()
        same(model)
    with model.disable_adapter():
        same(model)
    same(model.merge_and_unload())


def test_peft_takes_positional_prompts() -> None:
    model = lora()
    plain = model.generate(IDS, **HOW)
    assert torch.equal(racer.generate(model, IDS, config=CONFIG, **HOW), plain)
    assert torch.equal(racer.attach(model, CONFIG).generate(IDS, **HOW), plain)


def test_rows_with_adapters_of_their_own() -> None:
    model, how = lora(), {"input_ids": IDS.repeat(3, 1), "adapter_names": ["default", "other", "__base__"]}
    same(model, "adapter_names", **how)
    plain = model.generate(**how, **HOW)
    for _ in range(2):  # before and after its trial
        with said("forward hook"):
            assert torch.equal(
                model.generate(**how, **HOW, custom_generate=racer.custom_generate, racer_config=CONFIG), plain
            )
        same(model)


@pytest.mark.slow
def test_compiled_modules() -> None:
    model = llama()
    same(torch.compile(model, backend="eager"))
    assert "generate" not in vars(model)
    model.forward = torch.compile(model.forward, backend="eager")
    same(model)


def test_training_after_attach() -> None:
    model = racer.attach(llama(), CONFIG)
    plain = model.generate(IDS, **HOW)
    model.train()
    with said("training mode"):
        assert torch.equal(model.generate(IDS, **HOW), plain)
    model.eval()
    with said():
        assert torch.equal(model.generate(IDS, **HOW), plain)


COPIES: dict[str, Callable[[Any], Any]] = {
    "pickled": lambda model: pickle.loads(pickle.dumps(model)),
    "pickled twice": lambda model: pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(model)))),
    "copied": copy.deepcopy,
    "a copy's pickle": lambda model: pickle.loads(pickle.dumps(copy.deepcopy(model))),
}


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_copies_and_pickles_of_attached_models_stay_attached(copied: Callable[[Any], Any]) -> None:
    model = racer.attach(llama(), CONFIG)
    plain = model.generate(IDS, **HOW)
    twin = copied(model)
    assert twin.generate.__self__ is twin, "it decodes itself, not the one that it was made of"
    assert inspect.signature(twin.generate) == inspect.signature(llama().generate)
    out = twin.generate(IDS, **HOW, return_dict_in_generate=True)
    assert torch.equal(out.sequences, plain)
    assert out.racer_stats.steps
    racer.release(twin)
    assert "generate" not in vars(twin)
    assert "generate" in vars(model)


def test_a_decoder_says_that_it_does_not_pickle() -> None:
    decoder = racer.Decoder(llama(), CONFIG)
    for copied in COPIES.values():
        with pytest.raises(TypeError, match="pickle its model and its configuration"):
            copied(decoder)


def test_no_prompt_and_prompts_without_tokens() -> None:
    same(llama(), input_ids=None)
    model = llama()
    same(model, "no token", input_ids=None, inputs_embeds=model.get_input_embeddings()(IDS))
    nothing = torch.zeros(1, 0, dtype=torch.long)
    with pytest.raises(RuntimeError) as theirs:
        model.generate(nothing, **HOW)
    with said("no token"), pytest.raises(RuntimeError) as ours:
        racer.generate(model, nothing, config=CONFIG, **HOW)
    assert str(ours.value) == str(theirs.value)


class PassesOn(LlamaForCausalLM):
    def generate(self, input_ids: Any, **kwargs: Any) -> Any:
        return super().generate(input_ids, **kwargs)


class GoesItsOwnWay(LlamaForCausalLM):
    def generate(self, input_ids: Any, max_new_tokens: int = 5, **kwargs: Any) -> Any:
        output = super().generate(input_ids, max_new_tokens=max_new_tokens, return_dict_in_generate=True)
        return output if kwargs.get("return_dict_in_generate") else output.sequences


class TakesNoMore(LlamaForCausalLM):
    def generate(
        self,
        input_ids: Any,
        max_new_tokens: int = 5,
        do_sample: bool = False,
        pad_token_id: int = 0,
        return_dict_in_generate: bool = False,
    ) -> Any:
        how = {"do_sample": do_sample, "return_dict_in_generate": return_dict_in_generate}
        return super().generate(input_ids, max_new_tokens=max_new_tokens, **how)


class Samples(LlamaForCausalLM):
    """Its own loop writes the same token again and again."""

    def _sample(self, input_ids: Any, *args: Any, **kwargs: Any) -> Any:
        output = super()._sample(input_ids, *args, **kwargs)
        (output if isinstance(output, torch.Tensor) else output.sequences)[:, input_ids.shape[1] :] = 7
        return output


@pytest.mark.parametrize(
    ("kind", "reason"),
    [(PassesOn, ""), (GoesItsOwnWay, "goes another way"), (TakesNoMore, "unexpected keyword")],
)
def test_a_generate_of_its_own(kind: type[LlamaForCausalLM], reason: str) -> None:
    same(llama(kind), reason)


def test_quantised_weights_are_right_or_plain() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torch.ao.quantization.quantize_dynamic(llama(), {torch.nn.Linear}, dtype=torch.qint8)
    plain = model.generate(IDS, **HOW)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PlainDecodingWarning)
        assert torch.equal(racer.generate(model, IDS, config=CONFIG, **HOW), plain)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_grad_modes(mode: Callable[[], Any]) -> None:
    model = llama()
    plain = model.generate(IDS, **HOW)
    with mode():
        assert torch.equal(racer.generate(model, IDS, config=CONFIG, **HOW), plain)
    assert torch.equal(racer.generate(model, IDS, config=CONFIG, **HOW), plain)


def test_the_signature_of_a_saved_model_says_nothing_of_us(tmp_path: Path) -> None:
    model = racer.attach(llama(), CONFIG)
    model.generate(IDS, **HOW)
    model.save_pretrained(tmp_path)
    assert torch.equal(LlamaForCausalLM.from_pretrained(tmp_path).generate(IDS, **HOW), model.generate(IDS, **HOW))
    assert not any(b"racer" in file.read_bytes() for file in tmp_path.iterdir())
