"""A real server on a free port, in a thread, and what it is asked."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import httpx
import torch

import racer
from racer.hf.engine import Engine
from racer.loading import models
from racer.loading.detokenizer import decode
from racer.loading.loaded_model import LoadedModel, sampling_arguments
from racer.serve.app import create_app
from racer.serve.server import Server, address_of, bind
from racer.serve.service import Service
from racer.serve.settings import ServiceSettings

MESSAGES = [{"role": "user", "content": "The quick brown fox"}]
HERMES = (
    "{% if tools %}<tools>{% for tool in tools %}{{ tool | tojson }}{% endfor %}</tools>{% endif %}"
    "{% for message in messages %}<|user|>{{ message['content'] }}"
    "{% for call in message.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}<|answer|>{% endif %}"
)
"""A chat template that writes calls as Hermes' does."""
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Rome", "Oslo"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "get_time"}}


def load(folder: Path) -> LoadedModel:
    return models.load(str(folder), dtype="fp32", device="cpu")


@attrs.frozen(eq=False)
class Served:
    """A server that is running."""

    service: Service
    server: Server
    url: str
    client: httpx.Client

    def post(self, path: str, body: Any) -> httpx.Response:
        """As Python writes JSON: half characters and infinities too, which httpx would not send."""
        return self.client.post(path, content=json.dumps(body), headers={"Content-Type": "application/json"})

    def chat(self, **fields: Any) -> dict[str, Any]:
        answer = self.post("/v1/chat/completions", {"messages": MESSAGES, "temperature": 0, **fields})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def complete(self, **fields: Any) -> dict[str, Any]:
        answer = self.post("/v1/completions", {"prompt": "The quick", "temperature": 0, **fields})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def stream(self, path: str = "/v1/chat/completions", **fields: Any) -> list[dict[str, Any]]:
        """All chunks, behind which there must be the end mark."""
        first = {"messages": MESSAGES} if "chat" in path else {"prompt": "The quick"}
        body = {**first, "temperature": 0, "stream": True, **fields}
        with self.client.stream("POST", path, json=body) as answer:
            assert answer.status_code == 200, answer.read()
            assert answer.headers["content-type"].startswith("text/event-stream")
            data = [line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: ")]
        assert data[-1] == "[DONE]"
        return [json.loads(line) for line in data[:-1]]

    def error(self, path: str, body: Any, status: int = 400) -> dict[str, Any]:
        """The fields of a refusal."""
        answer = self.post(path, body)
        assert answer.status_code == status, answer.text
        return error_of(answer)

    def metrics(self) -> dict[str, float]:
        lines = self.client.get("/metrics").text.splitlines()
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}

    def idle(self) -> None:
        """Wait until the engine does nothing, and everybody has heard of it."""

        def rests() -> bool:
            figures = self.service.engine.figures()
            return not (figures.running or figures.waiting or self.service._following)

        until(rests)


def error_of(answer: httpx.Response) -> dict[str, Any]:
    told = answer.json()
    assert told.keys() == {"error"}
    assert told["error"].keys() == {"message", "type", "param", "code"}
    assert "Traceback" not in answer.text
    return told["error"]


def until(holds: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.01)


@contextmanager
def serving(
    loaded: LoadedModel, engine: dict[str, Any] | None = None, config: racer.DecodeConfig | None = None, **given: Any
) -> Iterator[Served]:
    """A server of that model until the block ends; ``given``: of :class:`ServiceSettings`."""
    engine = engine or {}
    waiting = {name: value for name, value in engine.items() if name == "max_waiting"}
    settings = ServiceSettings(**{"served_name": "tiny", "drain": 5.0, **waiting, **given})
    service = Service(loaded, Engine(loaded.model, config, **engine), settings)
    place, ready = bind("127.0.0.1", 0), threading.Event()
    server = Server(create_app(service), "error", ready.set)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [place]})
    url = address_of(place)
    thread.start()
    assert ready.wait(20)
    key = {"Authorization": f"Bearer {settings.api_keys[0]}"} if settings.api_keys else {}
    try:
        with httpx.Client(base_url=url, timeout=60, headers=key) as client:
            yield Served(service, server, url, client)
    finally:
        server.stop()
        thread.join(30)
        assert not thread.is_alive()


def solo(
    loaded: LoadedModel, prompt: list[int], limit: int, seed: int | None = None, drafter: Any = "racer", **settings: Any
) -> list[int]:
    """What ``racer.generate`` decodes, end token included; with a seed it samples."""
    how = sampling_arguments(seed is not None, **{name: settings.pop(name, None) for name in ("temperature", "top_p")})
    with models.quiet():
        ids = torch.tensor([prompt])
        out = racer.generate(
            loaded.model,
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            config=racer.DecodeConfig(drafter=drafter, seed=seed),
            max_new_tokens=limit,
            pad_token_id=loaded.pad_token_id,
            eos_token_id=loaded.tokenizer.eos_token_id,
            **how | settings,
        )
    return out[0, len(prompt) :].tolist()


def text_of(loaded: LoadedModel, tokens: list[int]) -> str:
    return decode(loaded.tokenizer, tokens)


def prompt_of(loaded: LoadedModel, text: str = MESSAGES[0]["content"]) -> list[int]:
    """A chat's prompt."""
    return loaded.encode([{"role": "user", "content": text}])["input_ids"][0].tolist()
