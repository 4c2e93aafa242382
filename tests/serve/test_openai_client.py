"""OpenAI's own client gets on with the server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from support.serving import MESSAGES, WEATHER, Served, serving


@pytest.fixture(scope="module")
def client(server: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def chat(client: openai.OpenAI, **fields: Any) -> Any:
    return client.chat.completions.create(**{"model": "tiny", "messages": MESSAGES, "max_tokens": 30, **fields})


def test_whole_and_streamed_are_one_text(client: openai.OpenAI, server: Served) -> None:
    for fields in ({"temperature": 0}, {"temperature": 1, "seed": 8}, {"temperature": 0, "n": 2}):
        whole = chat(client, **fields)
        expected = [choice.message.content for choice in whole.choices]
        streamed = [""] * len(expected)
        usage = None
        for chunk in chat(client, stream=True, stream_options={"include_usage": True}, **fields):
            usage = chunk.usage or usage
            for choice in chunk.choices:
                streamed[choice.index] += choice.delta.content or ""
        assert streamed == expected
        assert usage is not None
        assert usage.completion_tokens == whole.usage.completion_tokens == 30 * len(expected)
        assert usage.completion_tokens_details.accepted_prediction_tokens >= 0
        assert whole.model_extra["racer"]["steps"] > 0


def test_racers_own_fields_go_as_extra_ones(client: openai.OpenAI) -> None:
    told = chat(client, extra_body={"racer": {"draft": False}, "top_k": 3}, temperature=0)
    assert told.usage.completion_tokens_details.accepted_prediction_tokens == 0


def test_completions(client: openai.OpenAI, server: Served) -> None:
    told = client.completions.create(
        model="tiny", prompt=["The quick", "A tree"], max_tokens=9, temperature=0, logprobs=2
    )
    expected = server.complete(prompt=["The quick", "A tree"], max_tokens=9)["choices"]
    assert [choice.text for choice in told.choices] == [choice["text"] for choice in expected]
    assert len(told.choices[0].logprobs.tokens) == 9


def test_logprobs(client: openai.OpenAI) -> None:
    (choice,) = chat(client, logprobs=True, top_logprobs=2, temperature=0).choices
    assert len(choice.logprobs.content) == 30
    assert all(len(entry.top_logprobs) == 2 for entry in choice.logprobs.content)


def test_a_schema_and_a_tool(client: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"age": {"type": "integer", "minimum": 0, "maximum": 9}},
              "required": ["age"], "additionalProperties": False}  # fmt: skip
    format_ = {"type": "json_schema", "json_schema": {"name": "age", "schema": schema}}
    told = chat(client, response_format=format_, max_tokens=300, temperature=0)
    assert 0 <= json.loads(told.choices[0].message.content)["age"] <= 9
    told = chat(client, tools=[WEATHER], tool_choice="required", max_tokens=600, temperature=0)
    (call,) = told.choices[0].message.tool_calls
    assert json.loads(call.function.arguments)["city"] in ("Rome", "Oslo")
    assert told.choices[0].finish_reason == "tool_calls"


def test_errors_are_its_own(client: openai.OpenAI, loaded: Any) -> None:
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        chat(client, model="gpt-5")
    with pytest.raises(openai.BadRequestError) as caught:
        chat(client, max_tokens=-1)
    assert (caught.value.param, caught.value.code) == ("max_tokens", "invalid_value")
    with (
        serving(loaded, api_keys=("right",)) as served,
        openai.OpenAI(base_url=f"{served.url}/v1", api_key="wrong", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError),
    ):
        chat(stranger)


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "racer"


def test_leaving_a_stream_is_heard(client: openai.OpenAI, server: Served) -> None:
    server.idle()
    before = server.service.engine.figures().cancelled
    with chat(client, stream=True, max_tokens=900, temperature=0, extra_body={"racer": {"draft": False}}) as stream:
        next(iter(stream))
    server.idle()
    assert server.service.engine.figures().cancelled == before + 1
