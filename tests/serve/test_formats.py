"""Answers that must be JSON are: they parse, and are what the schema says, unless their length cuts them."""

from __future__ import annotations

import json
import random
from typing import Any

import llguidance
import pytest
import torch

import racer
from racer.serve.errors import ApiError
from racer.serve.grammar import Grammar, Grammars, of_schema
from support.serving import MESSAGES, Served, prompt_of, serving, solo, text_of

SCHEMA = {
    "type": "object",
    "properties": {
        "animal": {"enum": ["fox", "dog", "tree"]},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
        "tags": {"type": "array", "items": {"enum": ["quick", "lazy"]}, "maxItems": 3},
        "tame": {"type": "boolean"},
    },
    "required": ["animal", "age", "tags", "tame"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "animal", "schema": SCHEMA, "strict": True}}


def check(text: str) -> None:
    found = json.loads(text)
    assert found.keys() == {"animal", "age", "tags", "tame"}
    assert found["animal"] in ("fox", "dog", "tree")
    assert 0 <= found["age"] <= 99
    assert len(found["tags"]) <= 3
    assert isinstance(found["tame"], bool)


@pytest.mark.parametrize("sampling", [{}, {"temperature": 1, "seed": 5}, {"temperature": 1.5, "seed": 6, "top_p": 0.9}])
@pytest.mark.parametrize("draft", [True, False])
def test_an_answer_follows_its_schema(server: Served, sampling: dict[str, Any], draft: bool) -> None:
    fields = {"response_format": FORMAT, "max_tokens": 800, "racer": {"draft": draft}, **sampling}
    (told,) = server.chat(**fields)["choices"]
    assert told["finish_reason"] == "stop"
    check(told["message"]["content"])
    chunks = server.stream(**fields)
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == told["message"]["content"]
    completed = server.complete(prompt="A dog", **fields)
    check(completed["choices"][0]["text"])


def test_the_answer_is_that_of_a_solo_run_without_drafts(server: Served, loaded: Any) -> None:
    prompt = prompt_of(loaded)
    grammar = Grammars(loaded, [loaded.tokenizer.eos_token_id]).processor(of_schema(SCHEMA), len(prompt))
    alone = solo(loaded, prompt, 800, drafter="none", logits_processor=[grammar])
    told = server.chat(response_format=FORMAT, max_tokens=800)
    assert told["choices"][0]["message"]["content"] == text_of(loaded, alone)
    assert told["usage"]["completion_tokens"] == len(alone)


@pytest.mark.parametrize("seed", range(3))
def test_any_object(server: Served, seed: int) -> None:
    fields = {"response_format": {"type": "json_object"}, "max_tokens": 700, "temperature": 1, "seed": seed}
    (told,) = server.chat(**fields)["choices"]
    text = told["message"]["content"]
    assert text.startswith("{")
    if told["finish_reason"] == "stop":
        assert isinstance(json.loads(text), dict)
    else:
        assert told["finish_reason"] == "length"


def test_only_length_cuts_it(server: Served) -> None:
    (told,) = server.chat(response_format=FORMAT, max_tokens=5)["choices"]
    assert told["finish_reason"] == "length"
    with pytest.raises(json.JSONDecodeError):
        json.loads(told["message"]["content"])


def test_plain_text_is_a_format_too(server: Served) -> None:
    fields = {"max_tokens": 12}
    plain = server.chat(**fields)["choices"][0]["message"]
    assert server.chat(response_format={"type": "text"}, **fields)["choices"][0]["message"] == plain


@pytest.mark.parametrize(
    "format_",
    [
        {"type": "json_schema"},
        {"type": "json_schema", "json_schema": {"name": "x"}},
        {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}},
        {"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {"type": "string"}}}},
        {"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": "https://example.org/schema"}}},
        {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "string", "pattern": "(?=a)b"}}},
        {"type": "xml"},
    ],
)
def test_what_cannot_be_followed_is_refused(server: Served, format_: dict[str, Any]) -> None:
    messages = [{"role": "user", "content": "hello"}]
    told = server.error("/v1/chat/completions", {"messages": messages, "response_format": format_})
    assert told["code"] in ("invalid_schema", "missing_required_parameter", "invalid_value")


def test_a_model_without_an_end_token_has_no_formats(loaded: Any) -> None:
    with pytest.raises(ApiError, match="an end token"):
        Grammars(loaded, []).processor(of_schema(SCHEMA), 3)


def test_a_grammar_may_be_asked_about_any_prefix(loaded: Any) -> None:
    """As processors without a memory may, and rows of a batch have one each."""
    made = Grammars(loaded, [loaded.tokenizer.eos_token_id])
    text = '{"animal": "fox", "age": 7, "tags": ["lazy"], "tame": true}'
    ids = [5, 6, *loaded.tokenizer(text, add_special_tokens=False).input_ids]
    scores = torch.zeros(1, loaded.model.config.vocab_size)
    grammar = of_schema(SCHEMA)

    def fresh(length: int) -> torch.Tensor:
        return made.processor(grammar, 2)(torch.tensor([ids[:length]]), scores)

    asked = made.processor(grammar, 2)
    order = random.Random(3).sample(range(2, len(ids) + 1), 12)
    for length in [*order, len(ids), 2]:
        assert torch.equal(asked(torch.tensor([ids[:length]]), scores), fresh(length)), length
    end = fresh(len(ids))
    assert end.isfinite().nonzero()[:, 1].tolist() == [loaded.tokenizer.eos_token_id]
    one, other = asked.racer_rows(2)
    one(torch.tensor([ids[:9]]), scores)
    assert torch.equal(other(torch.tensor([ids[:2]]), scores), fresh(2))


def test_a_format_without_drafts_in_the_server(loaded: Any) -> None:
    with serving(loaded, config=racer.DecodeConfig(drafter="none")) as plain:
        check(plain.chat(response_format=FORMAT, max_tokens=800)["choices"][0]["message"]["content"])


def test_a_grammar_that_is_too_much_fails_and_does_not_just_end(
    server: Served, loaded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The matcher does not raise when it has come to its limits: its mask is then the end token."""
    pattern = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^(abc|[a-z]{3,30}x)*$"}}}
    schema = of_schema(pattern | {"required": ["a"]})
    known = Grammars(loaded, [loaded.tokenizer.eos_token_id])._known

    def limited(prompt_tokens: int = 2) -> Grammar:
        limits = llguidance.LLParserLimits(step_lexer_fuel=10)
        matcher = llguidance.LLMatcher(known, schema, log_level=0, limits=limits)
        assert not matcher.is_error()
        return Grammar(matcher, known.vocab_size, prompt_tokens)

    ids = [5, 6, *loaded.tokenizer('{"a": "', add_special_tokens=False).input_ids]
    scores = torch.zeros(1, loaded.model.config.vocab_size)
    limited()(torch.tensor([ids[:2]]), scores)
    with pytest.raises(RuntimeError, match="cannot be followed further"):
        limited()(torch.tensor([ids]), scores)
    monkeypatch.setattr(Grammars, "processor", lambda self, grammar, size: limited(size))
    answer = server.post("/v1/chat/completions", {"messages": MESSAGES, "temperature": 0, "response_format": FORMAT})
    assert answer.status_code == 500, answer.text
