"""The embedded model behind a server: real text, together as alone, and JSON that says what was asked."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from racer.loading import models
from support.serving import prompt_of, serving, solo, text_of

pytestmark = pytest.mark.slow
QUESTIONS = ["List three facts about Saturn.", "Write a haiku about rivers.", "Count to ten.", "What is a tree?"]


def test_real_text_is_that_of_solo_runs_and_json_is_sensible(embedded: Path) -> None:
    loaded = models.load(str(embedded), dtype="fp32", device="cpu")
    expected = [text_of(loaded, solo(loaded, prompt_of(loaded, question), 48)) for question in QUESTIONS]
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer"}, "city": {"enum": ["Paris", "Rome"]}},
        "required": ["name", "age", "city"],
        "additionalProperties": False,
    }
    with serving(loaded) as served, ThreadPoolExecutor(4) as pool:

        def ask(question: str) -> str:
            chunks = served.stream(messages=[{"role": "user", "content": question}], max_tokens=48)
            return "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)

        for _ in range(2):
            assert list(pool.map(ask, QUESTIONS)) == expected
        text = "Anna is 31 and lives in Rome. Describe her as JSON with name, age and city."
        format_ = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema}}
        told = served.chat(messages=[{"role": "user", "content": text}], response_format=format_, max_tokens=96)
        assert json.loads(told["choices"][0]["message"]["content"]) == {"name": "Anna", "age": 31, "city": "Rome"}
