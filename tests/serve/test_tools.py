"""Tool calls read from text, in whatever pieces it comes; and calls that a grammar forces."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from racer.engine.continuous.stream import Chunk
from racer.serve.protocol.chat import Tool
from racer.serve.text import AnswerText, Unit
from racer.serve.tools import CLOSE, OPEN, CallUnit, ForcedReader, Reader, TaggedReader, frames, parsed, special_tags
from support.serving import CLOCK, HERMES, WEATHER, Served, load, serving
from support.tiny_folder import build_folder, build_tokenizer

TOKENIZER = build_tokenizer()
TOOLS = [Tool.model_validate(tool) for tool in (WEATHER, CLOCK)]
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Köln", "days": 2}}\n</tool_call>'
OTHER = '<tool_call>{"name": "get_time", "arguments": {}}</tool_call>'


def read(reader: Reader, text: str, sizes: list[int]) -> tuple[str, list[tuple[str, Any]]]:
    """The plain text, and calls as names and arguments."""
    pieces = []
    for number, size in enumerate(sizes * (len(text) + 1)):
        pieces += reader.read([Unit(text[:size], bool(number % 2))] if text[:size] else [])
        text = text[size:]
    pieces += reader.end()
    calls: dict[int, tuple[str, str]] = {}
    for piece in pieces:
        if isinstance(piece, CallUnit):
            name, arguments = calls.get(piece.index, (piece.name, ""))
            assert (piece.id is None) == (piece.index in calls)
            calls[piece.index] = str(name), arguments + piece.arguments
    plain = "".join(piece.text for piece in pieces if isinstance(piece, Unit))
    return plain, [(name, json.loads(arguments)) for name, arguments in calls.values()]


SIZES = st.lists(st.integers(1, 30), min_size=1, max_size=4)
WEATHER_CALL = ("get_weather", {"city": "Köln", "days": 2})


@given(SIZES)
@pytest.mark.parametrize(
    ("text", "plain", "calls"),
    [
        ("no call", "no call", []),
        (f"Well. {CALL}", "Well. ", [WEATHER_CALL]),
        (f"{CALL}\n{OTHER}", "", [WEATHER_CALL, ("get_time", {})]),
        (CALL.removesuffix("</tool_call>"), "", [WEATHER_CALL]),
        ("a < b <tool", "a < b <tool", []),
        ("<tool_call>{}</tool_call> then", "<tool_call>{}</tool_call> then", []),
        ("<tool_call>{", "<tool_call>{", []),
        (CALL.replace("weather", "whether"), CALL.replace("weather", "whether"), []),
    ],
)
def test_calls_between_tags(text: str, plain: str, calls: list[Any], sizes: list[int]) -> None:
    assert read(TaggedReader(TOOLS), text, sizes) == (plain, calls)


@given(SIZES)
@pytest.mark.parametrize("template", ["", HERMES])
def test_forced_arguments_come_as_they_are_written(template: str, sizes: list[int]) -> None:
    allowed = frames(TOOLS, None, template)
    text = allowed[0].before + '{"city": "Köln}", "days": 2}' + allowed[0].behind
    assert read(ForcedReader(allowed), text, sizes) == ("", [("get_weather", {"city": "Köln}", "days": 2})])


def test_a_forced_call_that_was_cut_short() -> None:
    allowed = frames(TOOLS, "get_weather", "")
    reader = ForcedReader(allowed)
    assert reader.read([Unit('{"name"', False)]) == reader.end() == []
    assert not reader.called
    reader = ForcedReader(allowed)
    pieces = reader.read([Unit(allowed[0].before + '{"city": {"a": 1}', False)]) + reader.end()
    assert "".join(piece.arguments for piece in pieces if isinstance(piece, CallUnit)) == '{"city": {"a": 1}'


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "1", '{"name": 1}', '{"name": ["f"], "arguments": {}}', "[" * 100_000),
        *('{"name": "f", "arguments": {"a": 1e999}}', '{"name": "f", "arguments": {"a": NaN}}'),
    ],
)
def test_what_is_no_call(text: str) -> None:
    assert parsed(text, ["f"]) is None


def test_arguments_can_be_sent_whatever_they_hold() -> None:
    """Half a character, as JSON writes it, is no text that could be encoded."""
    name, arguments = parsed('{"name": "f", "arguments": {"a": "\\ud83d", "b": "é"}}', ["f"]) or ("", "")
    assert name == "f"
    assert json.loads(arguments.encode()) == {"a": "\ud83d", "b": "é"}


# -- on a server ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["no template for tools", "Hermes' template"])
def tooled(request: pytest.FixtureRequest, loaded: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    if request.param == "Hermes' template":
        loaded = load(build_folder(tmp_path_factory.mktemp("tooled"), max_position_embeddings=1024))
        loaded.tokenizer.chat_template = HERMES
    with serving(loaded) as served:
        yield served


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
@pytest.mark.parametrize("temperature", [0, 1])
def test_a_call_that_is_required_is_valid(tooled: Served, choice: Any, temperature: float) -> None:
    fields = {
        "tools": [WEATHER, CLOCK],
        "tool_choice": choice,
        "max_tokens": 600,
        "temperature": temperature,
        "seed": 1,
    }
    (told,) = tooled.chat(**fields)["choices"]
    assert told["finish_reason"] == "tool_calls", told
    assert told["message"]["content"] is None
    (call,) = told["message"]["tool_calls"]
    arguments = json.loads(call["function"]["arguments"])
    if call["function"]["name"] == "get_weather":
        assert arguments["city"] in ("Rome", "Oslo")
        assert 1 <= arguments["days"] <= 9
    else:
        assert choice == "required"
        assert isinstance(arguments, dict)
    deltas = [chunk["choices"][0] for chunk in tooled.stream(**fields)]
    parts = [part for delta in deltas for part in delta["delta"].get("tool_calls", [])]
    assert parts[0]["function"]["name"] == call["function"]["name"]
    assert "".join(part["function"]["arguments"] for part in parts) == call["function"]["arguments"]
    assert deltas[-1]["finish_reason"] == "tool_calls"
    assert not any(delta["delta"].get("content") for delta in deltas)


def test_tools_are_told_to_the_template_unless_none_may_be_called(tooled: Served) -> None:
    plain = tooled.chat(max_tokens=1)["usage"]["prompt_tokens"]
    none = tooled.chat(max_tokens=1, tools=[WEATHER], tool_choice="none")["usage"]["prompt_tokens"]
    auto = tooled.chat(max_tokens=1, tools=[WEATHER])
    assert none == plain
    knows = tooled.service.loaded.tokenizer.chat_template == HERMES
    assert (auto["usage"]["prompt_tokens"] > plain) == knows
    assert auto["choices"][0]["message"]["content"] is not None


def test_earlier_calls_go_through_the_template(tooled: Served) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "get_time", "arguments": '{"zone": "UTC"}'}}
    messages = [
        {"role": "user", "content": "Time?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "noon"},
    ]
    tokens = tooled.post("/tokenize", {"messages": messages}).json()["tokens"]
    text = tooled.post("/detokenize", {"tokens": tokens}).json()["prompt"]
    knows = tooled.service.loaded.tokenizer.chat_template == HERMES
    assert ('{"name": "get_time", "arguments": {"zone": "UTC"}}' in text) == knows
    messages[1]["tool_calls"][0]["function"]["arguments"] = "[]"
    assert tooled.error("/v1/chat/completions", {"messages": messages})["param"] == "messages[1].tool_calls"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "nope"}}, "tools": [WEATHER]}, "tool_choice"),
        ({"tools": [WEATHER], "response_format": {"type": "json_object"}}, "response_format"),
        ({"tools": [{"type": "function", "function": {"name": 'a"b'}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "retrieval"}]}, "tools[0].type"),
        ({"tool_choice": "perhaps", "tools": [WEATHER]}, "tool_choice.mode"),
        ({"functions": [WEATHER["function"]]}, "functions"),
    ],
)
def test_wrong_tools(server: Served, fields: dict[str, Any], param: str) -> None:
    body = {"messages": [{"role": "user", "content": "hello"}], **fields}
    assert server.error("/v1/chat/completions", body)["param"] == param


@given(SIZES)
def test_tags_that_are_special_tokens_are_seen(sizes: list[int]) -> None:
    """They were no text, so a call was given out as the answer."""
    tokenizer = copy.deepcopy(TOKENIZER)
    tokenizer.add_special_tokens({"additional_special_tokens": [OPEN, CLOSE, "<|other|>"]})
    shown, reader = special_tags(tokenizer), TaggedReader(TOOLS)
    assert sorted(shown.values()) == [CLOSE, OPEN]
    ids = tokenizer(f"Well.<|other|>{CALL}", add_special_tokens=False).input_ids
    answer, pieces = AnswerText(tokenizer, (), frozenset(), shown=shown), list[Any]()
    for size in sizes * len(ids):
        pieces += reader.read(answer.add(Chunk(tuple(ids[:size]), 0)))
        ids = ids[size:]
    pieces += [*reader.read(answer.end()), *reader.end()]
    assert "".join(piece.text for piece in pieces if isinstance(piece, Unit)) == "Well."
    (call,) = (piece for piece in pieces if isinstance(piece, CallUnit))
    assert (call.name, json.loads(call.arguments)) == WEATHER_CALL
    assert not special_tags(TOKENIZER)


@given(SIZES)
def test_one_call_is_enough_where_there_shall_be_no_more(sizes: list[int]) -> None:
    text = f"Well. {CALL}\n{OTHER}"
    assert read(TaggedReader(TOOLS, one=True), text, sizes) == ("Well. ", [WEATHER_CALL])
