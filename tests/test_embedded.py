"""The embedded model in float32: zero tokens differ from plain decoding, and greedy from ``model.generate``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import racer
from racer import DecodeConfig

PROMPTS = [
    "Write a short poem about a lighthouse in winter.",
    "What is the capital of Portugal, and what is it known for?",
    "Translate into French: The cat sleeps on the warm roof.",
    "Write a Python function that reverses a linked list.",
    "Explain photosynthesis to a ten-year-old.",
    "List five uses for an old newspaper.",
    "A train leaves at 9:40 and arrives at 13:15. How long is the journey?",
    "Repeat the following list three times: red, green, blue, yellow.",
    "Fix the grammar: She don't has no time for go to the market.",
    "Give me a JSON object with the fields name, age and city for two people.",
    "Summarise: Bees visit flowers for nectar. On the way they carry pollen, and plants can make seeds.",
    "What is the difference between a list and a tuple in Python?",
    "Write an email asking a landlord to repair a broken heater.",
    "Name three rivers in South America and one city on each.",
    "Compute 17 * 23 and show the steps.",
    "Tell me a story that begins with: The door had no handle.",
    "Write a SQL query that finds the ten newest orders of each customer.",
    "Why does ice float on water?",
    "请用中文介绍一下长城。",
    "Extract the dates: We met on 3 May 2019, again on 7 June 2020, and last on 1 January 2024.",
]
NEW = 64


@pytest.fixture(scope="module")
def loaded(embedded: Path) -> Any:
    from racer.models import load

    return load(None, dtype="fp32")


def ask(loaded: Any, prompt: str) -> dict[str, torch.Tensor]:
    return dict(
        loaded.tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], add_generation_prompt=True, return_dict=True, return_tensors="pt"
        )
    )


def differing(loaded: Any, prompts: list[str], new: int, drafters: tuple[str, ...], do_sample: bool) -> list[str]:
    """Names of (prompt, drafter) pairs whose tokens are not those of plain decoding."""
    how: dict[str, Any] = {"max_new_tokens": new, "do_sample": do_sample}
    if do_sample:
        how |= {"temperature": 0.7, "top_p": 0.9, "top_k": 0}
    decoders = {
        name: racer.Decoder(loaded.model, DecodeConfig(drafter=name, seed=1, budget=16)) for name in (*drafters, "none")
    }
    wrong = []
    for prompt in prompts:
        inputs = ask(loaded, prompt)
        plain = decoders["none"].generate(**inputs, **how)
        if not do_sample and not torch.equal(plain, loaded.model.generate(**inputs, **how)):
            wrong.append(f"none, not as model.generate: {prompt}")
        wrong += [
            f"{name}: {prompt}" for name in drafters if not torch.equal(decoders[name].generate(**inputs, **how), plain)
        ]
    return wrong


@pytest.mark.parametrize("do_sample", [False, True])
def test_a_few_prompts(loaded: Any, do_sample: bool) -> None:
    assert differing(loaded, PROMPTS[3:20:6], 24, ("racer-paper",), do_sample) == []


def test_a_padded_batch_equals_the_solo_runs(loaded: Any) -> None:
    texts = [ask(loaded, prompt)["input_ids"][0] for prompt in PROMPTS[:3]]
    width = max(map(len, texts))
    ids = torch.stack([torch.cat([torch.full((width - len(t),), loaded.tokenizer.pad_token_id), t]) for t in texts])
    mask = torch.stack([torch.cat([torch.zeros(width - len(t)), torch.ones(len(t))]) for t in texts]).long()
    config = DecodeConfig(drafter="racer-paper", budget=16)
    together = racer.generate(
        loaded.model, config=config, input_ids=ids, attention_mask=mask, max_new_tokens=16, do_sample=False
    )
    for row, text in enumerate(texts):
        alone = racer.generate(loaded.model, config=config, input_ids=text[None], max_new_tokens=16, do_sample=False)
        assert torch.equal(together[row, width:][: len(alone[0]) - len(text)], alone[0, len(text) :])


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("do_sample", [False, True])
def test_twenty_prompts(loaded: Any, do_sample: bool) -> None:
    assert differing(loaded, PROMPTS, NEW, ("racer-paper", "retrieval", "logits"), do_sample) == []
