"""What lines ask for, and which of them cannot be answered."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from racer.batch.asked import CHAT, COMPLETION, Asked, understand
from racer.batch.fields import Wanted
from racer.batch.index import Index
from racer.batch.lines import Line, LineError, read
from racer.errors import ConfigError


def written(folder: Path, *found: Any) -> Path:
    """A file of these lines; objects become JSON."""
    path = folder / "in.jsonl"
    texts = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in found]
    path.write_bytes(b"\n".join(texts) + b"\n")
    return path


def asked(data: Any) -> Asked:
    return understand(Line(1, 1, "", data))


def chat(**body: Any) -> dict[str, Any]:
    return {
        "custom_id": "x",
        "method": "POST",
        "url": CHAT,
        "body": {"messages": [{"role": "user", "content": "Hi"}]} | body,
    }


def test_ids_are_custom_ids_ids_or_numbers(tmp_path: Path) -> None:
    path = written(
        tmp_path, b"\xef\xbb\xbf" + json.dumps(chat()).encode(), b"", {"id": 7, "prompt": "a"}, {"prompt": "b"}, b"{"
    )
    lines = list(read(path))
    assert [(line.number, line.id) for line in lines] == [(1, "x"), (3, 7), (4, 4), (5, 5)]
    assert [line.openai for line in lines] == [True, False, False, False]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b'{"prompt": ', "Expecting value at column 11"),
        (b"[1]", "must be a JSON object, not list"),
        (b'{"id": "\xff"}', "not in UTF-8"),
        (b'{"id": ' + b"9" * 5000 + b"}", "no JSON"),
        (b'{"a": ' + b"[" * 100_000, "no JSON"),
        (b'{"id": 1.5, "prompt": "a"}', "'id' must be a text or a whole number"),
        (b'{"custom_id": true}', "'custom_id' must be"),
    ],
)
def test_what_is_no_request_has_its_number_and_the_reason(tmp_path: Path, text: bytes, reason: str) -> None:
    (line,) = read(written(tmp_path, text))
    assert line.id == 1
    with pytest.raises(LineError, match=reason):
        understand(line)


def test_both_formats_say_the_same() -> None:
    settings = {"max_tokens": 5, "temperature": 0.5, "top_p": 0.9, "top_k": -1, "min_p": 0.1, "seed": 3, "stop": "."}
    expected = Wanted(max_new_tokens=5, temperature=0.5, top_p=0.9, top_k=0, min_p=0.1, seed=3, stop=(".",))
    messages = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": [
        {"type": "text", "text": "H"}, {"type": "text", "text": "i"}]}]  # fmt: skip
    for found in (asked(chat(**settings, messages=messages)), asked({"messages": messages} | settings)):
        assert found.wanted == expected
        assert found.messages == ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"})
    completion = asked(chat(prompt="Hi", messages=None) | {"url": COMPLETION})
    assert (completion.prompt, completion.messages, completion.url) == ("Hi", None, COMPLETION)
    assert asked({"prompt": "Hi"}).messages == ({"role": "user", "content": "Hi"},)
    assert asked({"prompt": [1, 2]}).prompt == [1, 2]


def test_what_changes_nothing_is_taken() -> None:
    neutral = {"n": 1, "model": "gpt", "user": "me", "frequency_penalty": 0, "presence_penalty": 0.0, "tools": [],
               "logit_bias": {}, "response_format": {"type": "text"}, "logprobs": False, "seed": None}  # fmt: skip
    assert asked(chat(**neutral)).wanted == Wanted()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"n": 2}, "'n' is supported only as 1, not 2"),
        ({"n": True}, "'n' is supported only as 1"),
        ({"logprobs": 0}, "'logprobs' is supported only as False"),
        ({"stream": True}, "'stream' is supported only as False"),
        ({"tools": [{"type": "function"}]}, "'tools' is supported only as"),
        ({"temprature": 1}, "field 'temprature' is not supported; there are messages, max_tokens"),
        ({"temperature": -1}, "'temperature' must be 0"),
        ({"temperature": "hot"}, "'temperature' must be 0"),
        ({"temperature": float("nan")}, "'temperature' must be 0"),
        ({"max_tokens": 0}, "'max_tokens' must be a whole number from 1"),
        ({"max_tokens": 1.5}, "'max_tokens' must be"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "'max_completion_tokens' contradicts"),
        ({"top_p": 0}, "'top_p' must be a number above 0"),
        ({"top_k": -2}, "'top_k' must be"),
        ({"seed": 2**63}, "'seed' must be"),
        ({"stop": [""]}, "'stop' must be a text"),
        ({"stop": "x" * 1025}, "of 1024 characters at most"),
        ({"repetition_penalty": 0}, "'repetition_penalty' must be"),
        ({"messages": []}, "'messages' must be a list that is not empty"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "'role' must be one of system"),
        ({"messages": [{"role": "user"}]}, "'content' must be a text"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "only parts of type 'text'"),
        ({"messages": [{"role": "user", "content": "x", "tool_calls": [1]}]}, "field 'tool_calls' is not supported"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "half a character"),
    ],
)
def test_what_cannot_be_done_is_said(body: dict[str, Any], reason: str) -> None:
    with pytest.raises(LineError, match=reason):
        asked(chat(**body))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({"id": "a"}, "needs 'prompt' or 'messages'"),
        ({"prompt": "a", "messages": []}, "and not both"),
        ({"prompt": ""}, "must not be empty"),
        ({"prompt": ["a", "b"]}, "must be one text"),
        ({"prompt": [1, True]}, "must be one text"),
        ({"prompt": "a", "category": "math"}, "field 'category' is not supported"),
        (chat() | {"method": "GET"}, "'method' must be 'POST'"),
        (chat() | {"url": "/v1/embeddings"}, "'url' must be"),
        ({"custom_id": "a", "body": {}}, "'method' must be"),
        (chat() | {"body": "x"}, "'body' must be an object"),
    ],
)
def test_lines_that_ask_for_nothing(data: dict[str, Any], reason: str) -> None:
    with pytest.raises(LineError, match=reason):
        asked(data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
names = st.sampled_from(
    ["id", "custom_id", "method", "url", "body", "messages", "prompt", "n", "stop", "top_p", "seed"]
)


@given(st.dictionaries(names, json_values, max_size=5) | st.builds(chat, messages=json_values, stop=json_values))
def test_any_json_is_understood_or_refused(data: dict[str, Any]) -> None:
    with suppress(LineError):
        found = asked(data)
        assert (found.messages is None) != (found.prompt is None)


def test_duplicate_ids_are_named_with_their_lines(tmp_path: Path) -> None:
    found = [{"id": "a", "prompt": "1"}, {"id": 3, "prompt": "2"}, {"prompt": "3"}, {"id": "a", "prompt": "4"}]
    with pytest.raises(ConfigError, match=r'"a" \(lines 1 and 4\)') as caught:
        Index(read(written(tmp_path, *found)))
    assert "3 (lines 2 and 3)" in str(caught.value)  # an id that is another line's number
    many = [{"id": 1, "prompt": str(number)} for number in range(10)]
    with pytest.raises(ConfigError, match="and 4 more"):
        Index(read(written(tmp_path, *many)))


def test_texts_and_numbers_are_different_ids(tmp_path: Path) -> None:
    index = Index(read(written(tmp_path, {"id": 1, "prompt": "a"}, {"id": "1", "prompt": "b"})))
    assert index.total == 2
    index.mark('"1"')
    states = [index.find(key) for key in ("1", '"1"', "2")]
    assert [state and state.done for state in states] == [False, True, None]
    index.close()
