"""Every field: what is taken, what is ignored, what is refused, and how that is told."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from racer.serve.errors import of_validation, path
from racer.serve.protocol.chat import ChatRequest
from racer.serve.protocol.completions import CompletionRequest
from racer.serve.protocol.fields import Generation
from racer.serve.protocol.tokens import TokenizeRequest

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}]}
COMPLETION: dict[str, Any] = {"prompt": "hello"}
PAGE = Path(__file__).parents[2] / "docs" / "serving.md"


def refusal(kind: type[Generation], body: dict[str, Any]) -> dict[str, Any]:
    with pytest.raises(ValidationError) as caught:
        kind.model_validate(body)
    return of_validation(caught.value.errors()[0]).fields


IGNORED = {
    "user": "me", "metadata": {"a": "b"}, "store": True, "service_tier": "flex", "parallel_tool_calls": False,
    "safety_identifier": "x", "prompt_cache_key": "x", "prompt_cache_retention": "24h",
    "prediction": {"type": "content", "content": "hello"}, "modalities": ["text"], "audio": None, "functions": None,
}  # fmt: skip


@pytest.mark.parametrize("name", IGNORED)
def test_what_changes_nothing_is_taken(name: str) -> None:
    ChatRequest.model_validate({**CHAT, name: IGNORED[name]})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("audio", {"voice": "x"}), ("functions", []), ("function_call", "auto"), ("reasoning_effort", "low"),
        ("verbosity", "low"), ("web_search_options", {}),
    ],
)  # fmt: skip
def test_what_would_change_the_answer_is_refused(name: str, value: Any) -> None:
    told = refusal(ChatRequest, {**CHAT, name: value})
    assert (told["param"], told["code"]) == (name, "unsupported_parameter")


@pytest.mark.parametrize(("name", "value"), [("suffix", "x"), ("echo", True)])
def test_the_same_of_completions(name: str, value: Any) -> None:
    told = refusal(CompletionRequest, {**COMPLETION, name: value})
    assert (told["param"], told["code"]) == (name, "unsupported_parameter")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", 0), ("max_tokens", -1), ("max_tokens", "5"), ("max_tokens", 1.5), ("max_tokens", True),
        ("n", 0), ("n", 129), ("stop", 5), ("stop", [""]), ("stop", ["a"] * 17), ("stop", [1]),
        ("temperature", -0.1), ("temperature", 2.1), ("temperature", "hot"), ("temperature", float("nan")),
        ("temperature", float("inf")), ("top_p", 1.1), ("top_p", -1), ("top_k", -2), ("min_p", 2), ("top_k", 2**31),
        ("presence_penalty", 2.5), ("frequency_penalty", -3), ("repetition_penalty", 0), ("repetition_penalty", 1e-9),
        ("seed", 2**63),
        ("seed", 1.5), ("logit_bias", {"a": 1}), ("logit_bias", {"1": 101}), ("logit_bias", {"-1": 1}),
        ("logit_bias", []),
        ("stream", "yes"), ("stream_options", {"x": 1}), ("racer", {"budget": 0}), ("racer", {"budget": 5000}),
        ("racer", {"draft": "no"}), ("racer", {"tenant": ""}), ("racer", {"other": 1}), ("racer", True),
    ],
)  # fmt: skip
def test_values_out_of_range(name: str, value: Any) -> None:
    for kind, body in ((ChatRequest, CHAT), (CompletionRequest, COMPLETION)):
        told = refusal(kind, {**body, name: value})
        assert told["param"].startswith(name)
        assert told["type"] == "invalid_request_error"
        assert name in told["message"]


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([], "messages"), ("hello", "messages"), ([{"content": "x"}], "messages[0].role"),
        ([{"role": "robot", "content": "x"}], "messages[0].role"),
        ([{"role": "user", "content": 5}], "messages[0].content"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "messages[0].content[0].type"),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text"),
        ([{"role": "user", "content": "x", "mood": "good"}], "messages[0].mood"),
    ],
)  # fmt: skip
def test_wrong_messages(messages: Any, param: str) -> None:
    assert refusal(ChatRequest, {"messages": messages})["param"].startswith(param)


@pytest.mark.parametrize("prompt", ["", "x", ["x", "y"], [1, 2], [[1], [2, 3]]])
def test_prompts(prompt: Any) -> None:
    several = isinstance(prompt, list) and not isinstance(prompt[0], int)
    assert CompletionRequest.model_validate({"prompt": prompt}).prompt == (prompt if several else [prompt])


@pytest.mark.parametrize("prompt", [[], None, 5, [[]], [1, "x"], ["x", [1]], [True], [[1.5]], {"a": 1}])
def test_wrong_prompts(prompt: Any) -> None:
    assert refusal(CompletionRequest, {"prompt": prompt})["param"] == "prompt"


def test_a_message_in_parts_is_one_text() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    (message,) = ChatRequest.model_validate({"messages": [{"role": "user", "content": parts}]}).messages
    assert message.text == "ab"


def test_an_answer_can_be_sent_back() -> None:
    """As clients do, with all that an answer's message has."""
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    message = {"role": "assistant", "content": None, "refusal": None, "annotations": [], "audio": None,
               "function_call": None, "tool_calls": [call]}  # fmt: skip
    ChatRequest.model_validate({"messages": [message]})


def test_unknown_fields_are_told_as_openai_tells_them() -> None:
    told = refusal(ChatRequest, {**CHAT, "beam_width": 4})
    assert told == {
        "message": "Unrecognized request argument supplied: beam_width",
        "type": "invalid_request_error", "param": "beam_width", "code": "unknown_parameter",
    }  # fmt: skip


def test_places_are_written_as_in_javascript() -> None:
    assert path(["body", "messages", 0, "content", "<text>", 1, "type"]) == "messages[0].content[1].type"
    assert path(["body"]) == ""


@pytest.mark.parametrize("kind", [ChatRequest, CompletionRequest, TokenizeRequest])
def test_the_documentation_names_every_field(kind: type[Any]) -> None:
    named = set(re.findall(r"`([a-z_]+)`", PAGE.read_text(encoding="utf-8")))
    assert set(kind.model_fields) <= named
