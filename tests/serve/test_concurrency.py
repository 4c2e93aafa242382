"""Sixteen clients at once: each gets the text of its solo run."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from racer.serve.processors import CountPenalty
from support.serving import prompt_of, serving, solo, text_of

WORDS = ["The quick brown fox", "A tree is parents", "def add(a, b):", "Grüße aus Köln", "and the dog sleeps on"]


def requests() -> list[tuple[str, dict[str, Any], dict[str, Any], int]]:
    """A prompt, the request's fields, what ``generate`` is told, and the length."""
    kinds: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({}, {}),
        ({"temperature": 1, "seed": 5}, {"seed": 5}),
        ({"temperature": 0.7, "top_p": 0.9, "seed": 6}, {"temperature": 0.7, "top_p": 0.9, "seed": 6}),
        ({"repetition_penalty": 1.2}, {"repetition_penalty": 1.2}),
        ({"frequency_penalty": 1, "presence_penalty": 0.5}, {"penalty": (0.5, 1)}),
        ({"logit_bias": {"50": 5}}, {"sequence_bias": {(50,): 5.0}}),
        ({"racer": {"draft": False}}, {}),
        ({"racer": {"budget": 4}, "temperature": 1, "seed": 9, "top_k": 20}, {"seed": 9, "top_k": 20}),
    ]
    found = []
    for number in range(16):
        fields, settings = kinds[number % len(kinds)]
        found.append((f"{WORDS[number % 5]} {number}", fields, settings, 30 + 5 * number))
    return found


def test_sixteen_streams_are_sixteen_solo_runs(loaded: Any) -> None:
    asked, expected = requests(), []
    for text, _, settings, limit in asked:
        prompt, settings = prompt_of(loaded, text), dict(settings)
        if penalty := settings.pop("penalty", None):
            settings["logits_processor"] = [CountPenalty(len(prompt), *penalty)]
        expected.append(text_of(loaded, solo(loaded, prompt, limit, **settings)))
    with serving(loaded) as served, ThreadPoolExecutor(16) as pool:

        def ask(one: tuple[str, dict[str, Any], dict[str, Any], int]) -> str:
            text, fields, _, limit = one
            chunks = served.stream(messages=[{"role": "user", "content": text}], max_tokens=limit, **fields)
            return "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)

        for _ in range(2):  # the second time much is known
            assert list(pool.map(ask, asked)) == expected
        served.idle()
        figures = served.service.engine.figures()
        assert figures.finished == 32
        assert figures.row_steps > figures.steps, "they were decoded together"
