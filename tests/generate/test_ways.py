"""Every way a model reaches us: changed, hooked, subclassed, copied, wrapped, under the modes of torch."""

from __future__ import annotations

import contextlib
import copy
import io
import pickle
import threading
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import GPT2LMHeadModel, LlamaForCausalLM, LogitsProcessorList, TextIteratorStreamer, pipeline

import racer
from support.generate_calls import LOGITS, Either, Outcome, call, judge
from support.generate_models import PAD, build, prompts, tokenizer
from support.user_code import Collects, EndsAt, ReadsPrefix

HOW: dict[str, Any] = {**prompts(), "max_new_tokens": 12, "do_sample": False, "pad_token_id": PAD}
ONE: dict[str, Any] = {**HOW, **prompts(1)}


def pair(made: Any = None) -> tuple[Any, Any]:
    """Two equal models, of which the second is attached."""
    plain = build("llama") if made is None else made
    return plain, racer.attach(copy.deepcopy(plain), LOGITS)


def same(plain: Any, attached: Any, how: dict[str, Any] = HOW) -> Outcome:
    """What ours gives, which is what transformers gives."""
    ours = call(attached.generate, how)
    judge(call(plain.generate, how), ours, Either())
    return ours


def negate(model: Any) -> None:
    model.model.layers[0].mlp.down_proj.weight.data.neg_()


def replace_module(model: Any) -> None:
    model.model.layers[1].mlp = torch.nn.Identity()


def swap_layers(model: Any) -> None:
    layers = model.model.layers
    layers[0], layers[1] = layers[1], layers[0]


def drop_layer(model: Any) -> None:
    model.model.layers = model.model.layers[:1]
    model.config.num_hidden_layers = 1


def replace_head(model: Any) -> None:
    torch.manual_seed(0)
    model.set_output_embeddings(torch.nn.Linear(32, model.config.vocab_size).to(model.dtype))


def tie(model: Any) -> None:
    model.lm_head.weight = model.model.embed_tokens.weight


def resize(model: Any) -> None:
    torch.manual_seed(0)
    model.resize_token_embeddings(120, mean_resizing=False)


def other_attention(model: Any) -> None:
    model.set_attn_implementation("eager")


def normed(model: Any) -> None:
    torch.nn.utils.parametrizations.weight_norm(model.model.layers[0].mlp.down_proj)


def no_cache(model: Any) -> None:
    model.generation_config.use_cache = model.config.use_cache = False


def hooked_everywhere(model: Any) -> None:
    model.model.layers[0].mlp.register_forward_hook(lambda module, given, out: out + 1.0)


def hooked_before(model: Any) -> None:
    model.model.layers[0].self_attn.k_proj.register_forward_pre_hook(lambda module, given: (given[0] * 1.5,))


def hooked_arguments(model: Any) -> None:
    def hook(module: Any, args: Any, how: Any) -> Any:
        return args, how | {"input_ids": torch.where(how["input_ids"] == 80, 84, how["input_ids"])}

    model.register_forward_pre_hook(hook, with_kwargs=True)


def forward_of_its_own(model: Any) -> None:
    mlp = model.model.layers[0].mlp
    before = mlp.forward
    mlp.forward = lambda hidden: before(hidden) * 0.5


def update_of_its_own(model: Any) -> None:
    def update(self: Any, outputs: Any, how: Any, **more: Any) -> Any:
        outputs.logits[..., :50] -= 20
        return type(self)._update_model_kwargs_for_generation(self, outputs, how, **more)

    model._update_model_kwargs_for_generation = types.MethodType(update, model)


CHANGES = [
    negate, replace_module, swap_layers, drop_layer, replace_head, tie, resize, other_attention, normed, no_cache,
    hooked_everywhere, hooked_before, hooked_arguments, forward_of_its_own, update_of_its_own,
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_model_that_was_changed(change: Callable[[Any], None]) -> None:
    plain, attached = build("llama").float(), build("llama").float()
    change(plain)
    change(attached)
    same(plain, racer.attach(attached, LOGITS))


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_model_that_changes_after_it_was_used(change: Callable[[Any], None]) -> None:
    plain, attached = pair(build("llama").float())
    same(plain, attached)
    change(plain)
    change(attached)
    same(plain, attached)


class OwnGenerate(LlamaForCausalLM):  # type: ignore[misc]
    def generate(self, inputs: Any = None, **how: Any) -> Any:
        return super().generate(inputs, **{**how, "max_new_tokens": 5})[:, -5:]


class OwnSample(LlamaForCausalLM):  # type: ignore[misc]
    def _sample(self, input_ids: Any, **how: Any) -> Any:
        return super()._sample(input_ids, **how) + 1


class OwnUpdate(LlamaForCausalLM):  # type: ignore[misc]
    def _update_model_kwargs_for_generation(self, outputs: Any, how: Any, **more: Any) -> Any:
        outputs.logits[..., :50] -= 20
        return super()._update_model_kwargs_for_generation(outputs, how, **more)


class OwnPrefill(LlamaForCausalLM):  # type: ignore[misc]
    def _prefill(self, *args: Any, **how: Any) -> Any:
        out = super()._prefill(*args, **how)
        out.logits = out.logits.flip(-1)
        return out


class OwnProcessors(LlamaForCausalLM):  # type: ignore[misc]
    def _get_logits_processor(self, *args: Any, **how: Any) -> Any:
        return LogitsProcessorList([*super()._get_logits_processor(*args, **how), ReadsPrefix()])


class OwnCriteria(LlamaForCausalLM):  # type: ignore[misc]
    def _get_stopping_criteria(self, *args: Any, **how: Any) -> Any:
        made = super()._get_stopping_criteria(*args, **how)
        made.append(EndsAt(29))
        return made


@pytest.mark.parametrize(
    "kind", [OwnGenerate, OwnSample, OwnUpdate, OwnPrefill, OwnProcessors, OwnCriteria], ids=lambda kind: kind.__name__
)
def test_subclasses(kind: type) -> None:
    plain = build("llama")
    plain.__class__ = kind
    _, attached = pair(plain)
    same(plain, attached)
    judge(call(plain.generate, HOW), call(lambda **how: racer.generate(plain, config=LOGITS, **how), HOW), Either())


def _saved(model: Any) -> Any:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {
    "copied": copy.copy,
    "deep-copied": copy.deepcopy,
    "pickled": lambda model: pickle.loads(pickle.dumps(model)),
    "saved": _saved,
}


@pytest.mark.parametrize("used", [False, True], ids=["unused", "used"])
@pytest.mark.parametrize("way", COPIES)
def test_copies_of_an_attached_model(way: str, used: bool) -> None:
    plain, attached = pair(build("llama").float())
    if used:
        same(plain, attached)
    copied = COPIES[way](attached)
    negate(plain)
    negate(copied)
    same(plain, copied)


def test_save_pretrained(tmp_path: Any) -> None:
    plain, attached = pair()
    same(plain, attached)
    attached.save_pretrained(tmp_path)
    loaded = LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float64).eval()
    assert "generate" not in vars(loaded)
    same(plain, loaded)


@contextlib.contextmanager
def _default_dtype() -> Any:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextlib.contextmanager
def _deterministic() -> Any:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


MODES = {
    "inference": torch.inference_mode,
    "no grad": torch.no_grad,
    "grad": torch.enable_grad,
    "anomaly": torch.autograd.set_detect_anomaly,
    "default dtype": _default_dtype,
    "deterministic": _deterministic,
}


@pytest.mark.parametrize("mode", MODES)
def test_modes_of_torch(mode: str) -> None:
    plain, attached = pair()
    with MODES[mode](True) if mode == "anomaly" else MODES[mode]():
        same(plain, attached)
    same(plain, attached)
    assert all(parameter.grad is None for parameter in attached.parameters())
    assert torch.is_grad_enabled()


def test_a_model_made_and_prompted_in_inference_mode() -> None:
    with torch.inference_mode():
        plain, attached = pair()
        how = {**HOW, "input_ids": HOW["input_ids"].clone()}
    same(plain, attached, how)
    with torch.inference_mode():
        new = plain.generate(**how)[:, how["input_ids"].shape[1] :].tolist()
        rows = {token for row in new for token in row[2:]}
        end = next(token for token in sorted(rows) if len({token in row and row.index(token) for row in new}) > 1)
        ragged = {**how, "eos_token_id": end, "return_dict_in_generate": True}
        got, expected = attached.generate(**ragged), plain.generate(**ragged)
    assert torch.equal(got.sequences, expected.sequences)


def test_other_parameters_for_one_call() -> None:
    """As ``torch.func.functional_call`` lends them."""
    from torch.nn.utils.stateless import _reparametrize_module

    plain, attached = pair(build("llama").float())
    same(plain, attached)
    lent = dict(build("llama", 5).float().named_parameters())
    with _reparametrize_module(plain, lent), _reparametrize_module(attached, lent):
        same(plain, attached)
    same(plain, attached)


def test_training_between_calls() -> None:
    plain, attached = pair(build("llama").float())
    steps = [torch.optim.SGD(model.parameters(), 0.5) for model in (plain, attached)]
    for _ in range(2):
        for model, step in zip((plain, attached), steps, strict=True):
            model.train()
            step.zero_grad()
            model(input_ids=HOW["input_ids"], labels=HOW["input_ids"]).loss.backward()
            step.step()
            model.eval()
        same(plain, attached)


def test_two_threads_with_a_model_each() -> None:
    pairs, wrong = [pair(), pair(build("gpt2"))], []
    assert isinstance(pairs[1][0], GPT2LMHeadModel)
    expected = [plain.generate(**HOW) for plain, _ in pairs]

    def run(number: int) -> None:
        texts = [pairs[number][1].generate(**HOW) for _ in range(5)]
        wrong.extend(number for text in texts if not torch.equal(text, expected[number]))

    threads = [threading.Thread(target=run, args=(number % 2,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize(
    "how",
    [{}, {"batch_size": 2}, {"stop_sequence": "er", "return_full_text": False}, {"num_beams": 2}],
    ids=["alone", "batches", "stops", "beams"],
)
def test_pipelines(how: dict[str, Any]) -> None:
    texts = ["the cat sat the cat", "the dog the dog the dog", "on the mat"][: 3 if "batch_size" in how else 1]
    outputs = [
        call(
            lambda model=model, **more: pipeline("text-generation", model=model, tokenizer=tokenizer())(texts, **more),
            {"max_new_tokens": 10, "do_sample": False, **how},
        )
        for model in pair()
    ]
    assert not outputs[1].error
    assert outputs[1].value == outputs[0].value


def test_streaming_to_another_thread() -> None:
    def read(model: Any) -> list[str]:
        streamer = TextIteratorStreamer(tokenizer())
        thread = threading.Thread(target=lambda: model.generate(**ONE, streamer=streamer))
        thread.start()
        pieces = list(streamer)
        thread.join()
        return pieces

    plain, attached = pair()
    assert read(attached) == read(plain)


def test_interrupted_and_called_again() -> None:
    class Interrupts(Collects):
        def put(self, value: torch.Tensor) -> None:
            super().put(value)
            if len(self.got) == 4:
                raise KeyboardInterrupt

    plain, attached = pair(build("llama").float())
    with pytest.raises(KeyboardInterrupt):
        attached.generate(**ONE, streamer=Interrupts())
    same(plain, attached)
    assert torch.equal(LlamaForCausalLM.generate(attached, **HOW), plain.generate(**HOW))


def test_a_call_inside_a_processor() -> None:
    class Asks:
        """Guidance by hand: asks the model itself."""

        def __init__(self, model: Any) -> None:
            self.model = model

        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            how = {"max_new_tokens": 2, "do_sample": False, "pad_token_id": PAD}
            mask = torch.ones_like(input_ids)
            last = self.model.generate(input_ids=input_ids, attention_mask=mask, **how)[:, -1:]
            return scores.scatter_add(1, last, torch.full((len(scores), 1), 30.0))

    plain, attached = pair()
    for how in (ONE, HOW):
        expected = plain.generate(**how, logits_processor=LogitsProcessorList([Asks(plain)]))
        ours = call(
            lambda how=how: attached.generate(**how, logits_processor=LogitsProcessorList([Asks(attached)])), {}
        )
        assert not ours.error
        assert torch.equal(ours.value, expected)


@pytest.mark.slow
def test_torch_compile_before_and_after() -> None:
    plain = build("llama")
    before = racer.attach(torch.compile(copy.deepcopy(plain), backend="eager"), LOGITS)
    after = torch.compile(racer.attach(copy.deepcopy(plain), LOGITS), backend="eager")
    inside = copy.deepcopy(plain)
    inside.forward = torch.compile(inside.forward, backend="eager")
    for attached in (before, after, racer.attach(inside, LOGITS)):
        same(plain, attached)
    racer.detach(before)
    same(plain, before)


def test_hooks_of_accelerate() -> None:
    from accelerate import dispatch_model
    from accelerate.hooks import ModelHook, add_hook_to_module

    class Flips(ModelHook):  # type: ignore[misc]
        def post_forward(self, module: Any, out: Any) -> Any:
            out.logits = out.logits.flip(-1)
            return out

    plain, attached = pair()
    same(plain, racer.attach(dispatch_model(copy.deepcopy(plain), {"": "cpu"}, force_hooks=True), LOGITS))
    same(plain, attached)
    for model in (plain, attached):
        add_hook_to_module(model, Flips())
    same(plain, attached)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_quantised_by_torch() -> None:
    from torch.ao.quantization import quantize_dynamic

    plain, attached = pair(build("llama").float())
    same(plain, attached)
    for model in (plain, attached):
        quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8, inplace=True)
    same(plain, attached)
    same(plain, racer.attach(copy.deepcopy(plain), LOGITS))


def _adapters(config: Any, base: Any = None) -> Any:
    peft = pytest.importorskip("peft")
    base = build("llama").float() if base is None else base
    torch.manual_seed(1)
    return peft.get_peft_model(base, config(peft)).eval()


ADAPTERS: dict[str, Any] = {
    "lora": lambda peft: peft.LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False),
    "ia3": lambda peft: peft.IA3Config(
        task_type="CAUSAL_LM", target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"],
        init_ia3_weights=False,
    ),
    "prompts": lambda peft: peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
    "prefixes": lambda peft: peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
}  # fmt: skip


@pytest.mark.parametrize("kind", ADAPTERS)
def test_adapters(kind: str) -> None:
    plain = _adapters(ADAPTERS[kind])
    _, attached = pair(plain)
    same(plain, attached)
    with plain.disable_adapter(), attached.disable_adapter():
        same(plain, attached)
    same(plain, attached)
    assert "generate" not in vars(racer.detach(attached))
    same(plain, attached)


@pytest.mark.parametrize("kind", ["lora", "ia3"])
def test_adapters_around_an_attached_model(kind: str) -> None:
    attached = _adapters(ADAPTERS[kind], racer.attach(build("llama").float(), LOGITS))
    same(_adapters(ADAPTERS[kind]), attached)


def test_adapters_merged_after_a_call() -> None:
    plain, attached = pair(_adapters(ADAPTERS["lora"]))
    same(plain, attached)
    for change in ("merge_adapter", "unmerge_adapter"):
        for model in (plain, attached):
            getattr(model, change)()
        same(plain, attached)
    same(plain.merge_and_unload(), attached.merge_and_unload())
