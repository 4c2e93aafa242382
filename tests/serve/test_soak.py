"""``racer serve`` as a process of its own with the embedded model, asked by OpenAI's client as its users ask it."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import httpx
import openai
import psutil
import pytest

from racer.loading import models
from support.serving import prompt_of, solo, text_of

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3000)]
QUESTIONS = [
    "List three facts about Saturn.",
    "Write a haiku about rivers.",
    "What is a tree?",
    "Name five colours, one a line.",
    "Explain what a shadow is to a child.",
    "Write a Python function that adds two numbers.",
    "Who was Marie Curie?",
    "Count from one to ten in words.",
]
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}


@attrs.frozen
class Running:
    process: psutil.Process
    url: str

    @property
    def client(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key="none", timeout=600, max_retries=0)

    @property
    def resident(self) -> float:
        """MiB"""
        return float(self.process.memory_info().rss / 2**20)

    def metrics(self) -> dict[str, float]:
        lines = httpx.get(f"{self.url}/metrics").text.splitlines()
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    command = [sys.executable, "-m", "racer.cli", "serve", "--dtype", "fp32", "--port", "0", "--served-name", "small"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "serving small at" in line, line
        try:
            yield Running(psutil.Process(process.pid), line.split()[-1])
        finally:
            process.terminate()
            assert process.wait(60) in (0, -signal.SIGTERM)


async def text_of_stream(client: openai.AsyncOpenAI, question: str, **fields: Any) -> str:
    stream = await client.chat.completions.create(
        model="small", messages=[{"role": "user", "content": question}], stream=True, **fields
    )
    return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])


def test_sixteen_streams_get_their_solo_texts(running: Running, embedded: Path) -> None:
    loaded = models.load(str(embedded), dtype="fp32", device="cpu")
    asked: list[tuple[str, dict[str, Any], dict[str, Any]]] = []
    for number in range(16):
        kinds: list[tuple[dict[str, Any], dict[str, Any]]] = [
            ({"temperature": 0}, {}),
            ({"temperature": 0.8, "top_p": 0.9, "seed": number}, {"temperature": 0.8, "top_p": 0.9, "seed": number}),
            ({"temperature": 0, "extra_body": {"repetition_penalty": 1.3}}, {"repetition_penalty": 1.3}),
            ({"temperature": 1.1, "seed": number}, {"temperature": 1.1, "seed": number}),
        ]
        fields, settings = kinds[number % 4]
        limit = 24 + 5 * (number % 7)
        asked.append((QUESTIONS[number % 8], {**fields, "max_tokens": limit}, {**settings, "limit": limit}))
    expected = [text_of(loaded, solo(loaded, prompt_of(loaded, text), **how)) for text, _, how in asked]

    async def all_at_once() -> list[str]:
        async with running.client as client:
            return await asyncio.gather(*(text_of_stream(client, text, **fields) for text, fields, _ in asked))

    assert asyncio.run(all_at_once()) == expected
    assert asyncio.run(all_at_once()) == expected, "and again, with all that was learned"


def test_a_client_that_leaves_frees_its_slot(running: Running) -> None:
    async def leave() -> None:
        async with running.client as client:
            stream = await client.chat.completions.create(
                model="small", messages=[{"role": "user", "content": QUESTIONS[0]}], stream=True, max_tokens=4000
            )
            async for _ in stream:
                break
            assert running.metrics()["racer_requests_running"] == 1
            await stream.close()

    asyncio.run(leave())
    end = time.monotonic() + 2
    while running.metrics()["racer_requests_running"]:
        assert time.monotonic() < end


def test_a_thousand_short_requests(running: Running) -> None:
    """None is lost, memory is flat, and the metrics add up."""
    before, lost, tokens = running.metrics(), [], 0
    sizes: list[float] = []

    async def worker(number: int, left: list[int]) -> None:
        nonlocal tokens
        rng = random.Random(number)
        async with running.client as client:
            while left:
                request = left.pop()
                answer = await client.chat.completions.create(
                    model="small",
                    messages=[{"role": "user", "content": f"{rng.choice(QUESTIONS)} ({request})"}],
                    max_tokens=rng.randrange(1, 13),
                    temperature=rng.choice([0, 0.8]),
                )
                assert answer.usage is not None
                tokens += answer.usage.completion_tokens
                if not answer.choices[0].finish_reason:
                    lost.append(request)
                if len(left) % 50 == 0:
                    sizes.append(running.resident)

    async def run() -> None:
        left = list(range(1000))
        await asyncio.gather(*(worker(number, left) for number in range(8)))

    asyncio.run(run())
    time.sleep(1)
    after = running.metrics()
    grown = {name: after[name] - before.get(name, 0) for name in after}
    assert not lost
    answered = [name for name in grown if name.startswith("racer_http_requests_total{") and "/v1/chat" in name]
    assert sum(grown[name] for name in answered if '"200"' in name) == 1000, answered
    assert grown["racer_new_tokens_total"] == tokens
    assert grown["racer_step_seconds_count"] == grown["racer_steps_total"]
    assert after["racer_requests_running"] == after["racer_requests_waiting"] == 0
    warm, last = sizes[len(sizes) // 5], max(sizes[-5:])
    assert last <= 1.05 * warm, [round(size) for size in sizes]


@pytest.mark.parametrize("stream", [False, True])
def test_schemas_hold_and_drafts_change_nothing(stream: bool, running: Running) -> None:
    format_ = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA, "strict": True}}

    async def ask(client: openai.AsyncOpenAI, number: int, draft: bool) -> str:
        fields: dict[str, Any] = {
            "response_format": format_,
            "max_tokens": 160,
            "temperature": [0, 0.9][number % 2],
            "seed": number,
            "extra_body": {"racer": {"draft": draft}},
        }
        question = f"Describe person number {number} as JSON with name, age and tags."
        if stream:
            return await text_of_stream(client, question, **fields)
        answer = await client.chat.completions.create(
            model="small", messages=[{"role": "user", "content": question}], **fields
        )
        return answer.choices[0].message.content or ""

    async def run() -> list[list[str]]:
        async with running.client as client:
            return [await asyncio.gather(*(ask(client, n, draft) for n in range(25))) for draft in (True, False)]

    drafted, plain = asyncio.run(run())
    assert drafted == plain
    for text in drafted:
        told = json.loads(text)
        assert told.keys() == {"name", "age", "tags"}
        assert 0 <= told["age"] <= 120
        assert {*told["tags"]} <= {"red", "green", "blue"}
