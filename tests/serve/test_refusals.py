"""What a server refuses, always in OpenAI's shape, and never with anything of its insides."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.serving import MESSAGES, Served, error_of

CHAT = "/v1/chat/completions"
JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize("content", [b"", b"{", b'{"messages": ', b"\xff\xfe", b"[" * 100_000, b"nonsense"])
def test_what_is_no_json(content: bytes, server: Served) -> None:
    answer = server.client.post(CHAT, content=content, headers=JSON)
    assert answer.status_code == 400
    assert error_of(answer)["type"] == "invalid_request_error"


@pytest.mark.parametrize("body", [[], "text", 5, None])
def test_json_that_is_no_object(body: Any, server: Served) -> None:
    assert "JSON object" in server.error(CHAT, body)["message"]


def test_another_model(server: Served) -> None:
    for path, fields in ((CHAT, {"messages": MESSAGES}), ("/v1/completions", {"prompt": "x"}), ("/tokenize", {})):
        told = server.error(path, {"model": "gpt-5", **fields}, 404)
        assert (told["code"], told["param"]) == ("model_not_found", "model")
    assert server.client.get("/v1/models/gpt-5").status_code == 404


def test_paths_and_methods_that_are_not_there(server: Served) -> None:
    answer = server.client.get("/v1/nothing")
    assert (answer.status_code, error_of(answer)["message"]) == (404, "Invalid URL (GET /v1/nothing)")
    answer = server.client.get(CHAT)
    assert (answer.status_code, error_of(answer)["code"]) == (405, "method_not_supported")
    assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"max_tokens": -1}, "max_tokens", "invalid_value"),
        ({"temperature": 3}, "temperature", "invalid_value"),
        ({"stop": ["x", "y" * 1025]}, "stop[1]", "invalid_value"),
        ({"beam_width": 4}, "beam_width", "unknown_parameter"),
        ({"audio": {"voice": "x"}}, "audio", "unsupported_parameter"),
        ({"modalities": ["text", "audio"]}, "modalities[1]", "invalid_value"),
        ({"stream_options": {"include_usage": True}}, "stream_options", None),
        ({"messages": [{"role": "user", "content": "a " * 2000}]}, None, "context_length_exceeded"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages", None),
        ({"\ud800": 1}, None, None),
        ({"logit_bias": {"99999": 1}}, "logit_bias", None),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_wrong_fields(
    fields: dict[str, Any], param: str | None, code: str | None, stream: bool, server: Served
) -> None:
    if stream and "stream_options" in fields:
        pytest.skip("there it is right")
    told = server.error(CHAT, {"messages": MESSAGES, "stream": stream, **fields})
    assert (told["param"], told["code"]) == (param, code), told


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"best_of": 3}, "best_of"), ({"echo": True}, "echo"), ({"suffix": "x"}, "suffix"),
        ({"prompt": [1, 9999]}, "prompt"), ({"prompt": [-1]}, "prompt"), ({"prompt": []}, "prompt"),
        ({"prompt": "a " * 2000}, None),
        ({"prompt": ""}, None),
        ({"prompt": "\ud800"}, None),
    ],
)  # fmt: skip
def test_wrong_completions(fields: dict[str, Any], param: str | None, server: Served) -> None:
    assert server.error("/v1/completions", {"prompt": "x", **fields})["param"] == param


@pytest.mark.parametrize(
    ("path", "body"),
    [("/tokenize", {}), ("/tokenize", {"prompt": "x", "messages": MESSAGES}), ("/detokenize", {"tokens": [9999]}),
     ("/detokenize", {"tokens": ["x"]}), ("/detokenize", {})],
)  # fmt: skip
def test_wrong_tokens(path: str, body: Any, server: Served) -> None:
    server.error(path, body)


def test_a_template_that_refuses(server: Served, loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loaded.tokenizer, "chat_template", "{{ raise_exception('only users may speak') }}")
    told = server.error(CHAT, {"messages": MESSAGES})
    assert "only users may speak" in told["message"]
    assert told["param"] == "messages"


def test_a_bug_is_logged_and_not_told(
    server: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise KeyError("a secret")

    logging.getLogger("racer").propagate, before = True, logging.getLogger("racer").propagate
    try:
        monkeypatch.setattr(server.service.engine, "submit", broken)
        answer = server.post(CHAT, {"messages": MESSAGES})
        monkeypatch.setattr(server.service, "check_model", broken)
        other = server.post(CHAT, {"messages": MESSAGES})
    finally:
        logging.getLogger("racer").propagate = before
    for one in (answer, other):
        assert one.status_code == 500
        assert error_of(one)["message"] == "The server had an error while processing your request."
        assert "secret" not in one.text
    assert "a secret" in caplog.text
    monkeypatch.undo()
    server.chat(max_tokens=1)


def test_what_transformers_refuses_is_told_and_logged(
    server: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refusing(*_: Any, **__: Any) -> None:
        raise ValueError("an odd setting")

    monkeypatch.setattr(logging.getLogger("racer"), "propagate", True)
    monkeypatch.setattr(server.service.engine, "submit", refusing)
    assert server.error(CHAT, {"messages": MESSAGES})["message"] == "an odd setting"
    assert "an odd setting" in caplog.text


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
FIELDS = [
    "messages",
    "n",
    "stop",
    "temperature",
    "top_p",
    "seed",
    "logit_bias",
    "tools",
    "tool_choice",
    "racer",
    "response_format",
    "stream_options",
    "logprobs",
    "top_logprobs",
    "max_completion_tokens",
    "prompt",
]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(FIELDS), ANYTHING, max_size=3), st.sampled_from([CHAT, "/v1/completions"]))
def test_nothing_that_is_sent_breaks_it(server: Served, fields: dict[str, Any], path: str) -> None:
    common = {"messages": MESSAGES} if path == CHAT else {"prompt": "The"}
    answer = server.post(path, {**common, "max_tokens": 1, **fields})
    assert answer.status_code in (200, 400, 413), answer.text
    if answer.status_code != 200:
        error_of(answer)


# -- sizes ------------------------------------------------------------------------------------------------------------


def test_ten_megabytes_are_too_much(server: Served) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(100):
            yield b"x" * 100_000

    for content in (b"x" * 10_000_000, pieces()):  # the second does not say how much it is
        answer = server.client.post(CHAT, content=content, headers=JSON)
        assert answer.status_code == 413
        assert error_of(answer)["code"] == "request_too_large"
    assert server.client.get("/health").json() == {"status": "ok"}


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_what_browsers_send_to_anybody_is_not_read(kind: str, server: Served) -> None:
    answer = httpx.post(server.url + CHAT, content=b"{}", headers={"Content-Type": kind})
    assert (answer.status_code, error_of(answer)["code"]) == (415, "wrong_content_type")
