"""The embedded model in float32: zero tokens differ from plain decoding, and greedy from ``model.generate``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import racer
from racer import DecodeConfig
from support.seeds import as_row

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
    from racer.loading.models import load

    return load(None, dtype="fp32")


def ask(loaded: Any, prompt: str) -> dict[str, torch.Tensor]:
    return dict(
        loaded.tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], add_generation_prompt=True, return_dict=True, return_tensors="pt"
        )
    )


def padded(loaded: Any, prompts: list[str]) -> dict[str, torch.Tensor]:
    """The prompts as one batch, padded on the left."""
    texts = [ask(loaded, prompt)["input_ids"][0] for prompt in prompts]
    width = max(map(len, texts))
    ids = torch.stack([torch.cat([torch.full((width - len(t),), loaded.tokenizer.pad_token_id), t]) for t in texts])
    mask = torch.stack([torch.cat([torch.zeros(width - len(t)), torch.ones(len(t))]) for t in texts]).long()
    return {"input_ids": ids, "attention_mask": mask}


def new_tokens(out: torch.Tensor, inputs: dict[str, torch.Tensor], eos: int) -> list[list[int]]:
    """Of each row, without what fills it up after its end."""
    rows = out[:, inputs["input_ids"].shape[1] :].tolist()
    return [row[: row.index(eos) + 1] if eos in row else row for row in rows]


def differing(loaded: Any, prompts: list[str], new: int, drafters: tuple[str, ...], do_sample: bool) -> list[str]:
    """Names of (prompt, drafter) pairs whose tokens are not those of plain decoding, or plain's not of generate.

    Plain decoding runs over a padded batch, whose rows must equal their solo runs; row b has the seed 1 + b.
    """
    how: dict[str, Any] = {"max_new_tokens": new, "do_sample": do_sample}
    if do_sample:
        how |= {"temperature": 0.7, "top_p": 0.9, "top_k": 0}
    model, eos = loaded.model, loaded.model.generation_config.eos_token_id
    inputs = padded(loaded, prompts)
    plain = racer.generate(model, config=DecodeConfig(drafter="none", seed=1), **inputs, **how)
    wrong = []
    for row, (prompt, expected) in enumerate(zip(prompts, new_tokens(plain, inputs, eos), strict=True)):
        alone = ask(loaded, prompt)
        if not do_sample and new_tokens(model.generate(**alone, **how), alone, eos) != [expected]:
            wrong.append(f"none, not as model.generate: {prompt}")
        for name in drafters:
            config = as_row(DecodeConfig(drafter=name, seed=1, budget=16), row)
            if new_tokens(racer.generate(model, config=config, **alone, **how), alone, eos) != [expected]:
                wrong.append(f"{name}: {prompt}")
    return wrong


@pytest.mark.parametrize("do_sample", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_few_prompts(loaded: Any, do_sample: bool) -> None:
    assert differing(loaded, PROMPTS[3:20:6], 24, ("racer-paper",), do_sample) == []


def test_a_padded_batch_equals_the_solo_runs(loaded: Any) -> None:
    inputs, eos = padded(loaded, PROMPTS[:3]), loaded.model.generation_config.eos_token_id
    config = DecodeConfig(drafter="racer-paper", budget=16)
    how: dict[str, Any] = {"max_new_tokens": 16, "do_sample": False}
    together = new_tokens(racer.generate(loaded.model, config=config, **inputs, **how), inputs, eos)
    for row, prompt in enumerate(PROMPTS[:3]):
        alone = ask(loaded, prompt)
        assert new_tokens(racer.generate(loaded.model, config=config, **alone, **how), alone, eos) == [together[row]]


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("do_sample", [False, True])
def test_twenty_prompts(loaded: Any, do_sample: bool) -> None:
    drafters = ("racer-paper", "retrieval", "logits")
    assert [differing(loaded, PROMPTS[at : at + 5], NEW, drafters, do_sample) for at in range(0, 20, 5)] == [[]] * 4
