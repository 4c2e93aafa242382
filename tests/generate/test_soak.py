"""Many requests on one attached model: each as transformers has it, and no memory kept of them."""

from __future__ import annotations

import contextlib
import copy
import gc
import random
from typing import Any

import psutil
import pytest
import torch
from transformers import LogitsProcessorList, StoppingCriteriaList

import racer
from support.generate_calls import LOGITS, Either, call, judge
from support.generate_models import EOS, PAD, build
from support.user_code import Collects, EndsAt, Favours, PairEnds, ReadsPrefix, ReadsRow

peft = pytest.importorskip("peft")
ALLOWED = 24 * 2**20
"""Bytes by which resident memory may differ from where it stood after the first requests: allocators are not exact."""


def _with_adapters() -> Any:
    """A Llama with two LoRA adapters that change its text."""
    base = build("llama").float()
    config = {"r": 4, "target_modules": ["q_proj", "v_proj", "down_proj"], "init_lora_weights": False}
    torch.manual_seed(1)
    model = peft.get_peft_model(base, peft.LoraConfig(**config), adapter_name="one")
    model.add_adapter("two", peft.LoraConfig(**config))
    return model.double().eval()


def _request(pick: random.Random) -> dict[str, Any]:
    """Arguments of any shape."""
    rows, longest = pick.randint(1, 4), pick.randint(1, 60)
    lengths = [longest, *(pick.randint(1, longest) for _ in range(rows - 1))]
    motif = [pick.randint(4, 99) for _ in range(pick.randint(1, 7))]
    ids = torch.tensor([[PAD] * (longest - n) + (motif * 60)[:n] for n in lengths])
    mask = torch.tensor([[0] * (longest - n) + [1] * n for n in lengths])
    how: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, "pad_token_id": PAD, "do_sample": False}
    how["max_new_tokens"] = pick.randint(1, 24)
    more: list[dict[str, Any]] = [
        {"repetition_penalty": 1.2},
        {"no_repeat_ngram_size": 3, "bad_words_ids": [[5, 6], [7]]},
        {"eos_token_id": [EOS, *range(20, 30)]},
        {"logits_processor": LogitsProcessorList([Favours(), ReadsPrefix()])},
        {"logits_processor": LogitsProcessorList([ReadsRow()])},
        {"stopping_criteria": StoppingCriteriaList([PairEnds(30, 40), EndsAt(longest + 9)]), "eos_token_id": EOS},
        {"return_dict_in_generate": True},
        {"do_sample": True, "top_k": 1},
        {"num_beams": 2},
        {"prefix_allowed_tokens_fn": lambda row, prefix: [10 + row, 20 + int(prefix[-1]) % 7]},
    ]
    if rows == 1:
        more.append({"streamer": Collects()})
    for extra in pick.sample(more, pick.randint(0, 2)):
        how |= extra
    return how


@contextlib.contextmanager
def _adapter(models: tuple[Any, Any], choice: str) -> Any:
    """Both models with one adapter, or none."""
    if choice == "none":
        with models[0].disable_adapter(), models[1].disable_adapter():
            yield
        return
    for model in models:
        model.set_adapter(choice)
    yield


def soak(requests: int, settled: int) -> None:
    """
    :param settled: requests after which memory may no longer grow.
    """
    pick, plain = random.Random(5), _with_adapters()
    attached = racer.attach(copy.deepcopy(plain), LOGITS)
    drafted = before = 0
    for number in range(requests):
        how = _request(pick)
        choice = pick.choice(["one", "two", "none", "mixed"])
        if choice == "mixed":
            how.pop("num_beams", None)  # PEFT counts rows without their beams, fails, and leaves its hooks behind
            how["adapter_names"] = [pick.choice(["one", "two", "__base__"]) for _ in how["input_ids"]]
        with _adapter((plain, attached), "one" if choice == "mixed" else choice):
            ours = call(attached.generate, how)
            judge(call(plain.generate, how), ours, Either())
        drafted += not ours.reasons
        if number in (settled, requests - 1):
            gc.collect()
            memory = psutil.Process().memory_info().rss
            assert not before or memory - before < ALLOWED, f"{(memory - before) / 2**20:.0f} MiB more"
            before = memory
    assert drafted > requests / 2


@pytest.mark.soak
def test_two_hundred_and_fifty_requests() -> None:
    soak(250, 100)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_thousand_requests() -> None:
    soak(1000, 200)
