"""Log probabilities, and the bytes of tokens."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from racer.engine.continuous.stream import TokenScore
from racer.serve.scores import LOWEST, TokenNames, of_chat, of_completion
from support.serving import MESSAGES, Served, prompt_of
from support.tiny_folder import build_tokenizer


@pytest.mark.parametrize("text", ["The quick 你好 😀\n\tx", "Grüße"])
def test_the_bytes_of_byte_level_tokens_are_those_of_the_text(text: str) -> None:
    tokenizer = build_tokenizer()
    names = TokenNames(tokenizer)
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert b"".join(map(names.bytes_of, ids)) == text.encode()
    assert names.bytes_of(tokenizer.eos_token_id) == b"<|end|>"
    assert names.bytes_of(10**6) == b""


def test_sentencepieces_marks_are_spaces_and_bytes() -> None:
    vocabulary = {"▁a": 0, "<0xE4>": 1, "b": 2}
    tokenizer = Tokenizer(BPE(vocabulary, []))
    tokenizer.decoder = decoders.Replace("▁", " ")
    names = TokenNames(PreTrainedTokenizerFast(tokenizer_object=tokenizer))
    assert [names.bytes_of(token) for token in range(3)] == [b" a", b"\xe4", b"b"]
    assert names.text_of(1) == "bytes:\\xe4"


def test_the_impossible_is_a_number() -> None:
    names = TokenNames(build_tokenizer())
    score = TokenScore(40, -math.inf, ((40, -math.inf), (41, 0.0)))
    (told,) = of_chat([score], names)["content"]
    assert told["logprob"] == told["top_logprobs"][0]["logprob"] == LOWEST
    assert of_completion([(0, [score])], names)["token_logprobs"] == [LOWEST]


def reference(loaded: Any, prompt: list[int], tokens: list[int]) -> torch.Tensor:
    """``[n, V]`` log probabilities by the plain model, before each of the tokens."""
    with torch.no_grad():
        logits = loaded.model(torch.tensor([prompt + tokens])).logits[0]
    return torch.log_softmax(logits.float(), -1)[len(prompt) - 1 : -1]


def test_a_chats_are_the_models_own(server: Served, loaded: Any) -> None:
    fields = {"max_tokens": 20, "logprobs": True, "top_logprobs": 3, "temperature": 1, "seed": 4}
    told = server.chat(**fields)
    content = told["choices"][0]["logprobs"]["content"]
    assert len(content) == told["usage"]["completion_tokens"] == 20
    names = TokenNames(loaded.tokenizer)
    by_bytes = {names.bytes_of(token): token for token in range(len(loaded.tokenizer))}
    tokens = [by_bytes[bytes(entry["bytes"])] for entry in content]
    logs = reference(loaded, prompt_of(loaded), tokens)
    for entry, row, token in zip(content, logs, tokens, strict=True):
        assert entry["logprob"] == pytest.approx(float(row[token]), abs=1e-4)
        assert [one["logprob"] for one in entry["top_logprobs"]] == pytest.approx(row.topk(3).values.tolist(), abs=1e-4)
    streamed = server.stream(**fields)
    scored = [chunk["choices"][0]["logprobs"] for chunk in streamed if chunk["choices"][0]["logprobs"]]
    again = [entry for one in scored for entry in one["content"]]
    assert [entry["bytes"] for entry in again] == [entry["bytes"] for entry in content]
    logprobs = [entry["logprob"] for entry in content]
    assert [entry["logprob"] for entry in again] == pytest.approx(logprobs, abs=1e-4)


def test_none_beside_its_own(server: Served) -> None:
    told = server.chat(max_tokens=5, logprobs=True)
    assert all(entry["top_logprobs"] == [] for entry in told["choices"][0]["logprobs"]["content"])
    assert server.chat(max_tokens=5)["choices"][0]["logprobs"] is None


def test_a_completions_offsets_are_places_in_its_text(server: Served) -> None:
    ascii_ = {"type": "json_schema", "json_schema": {"schema": {"enum": ["the quick brown fox", "the lazy dog"]}}}
    fields = {"max_tokens": 30, "logprobs": 2, "temperature": 1, "seed": 5, "response_format": ascii_}
    told = server.complete(**fields)["choices"][0]
    scores = told["logprobs"]
    assert len({len(part) for part in scores.values()}) == 1
    for token, offset in zip(scores["tokens"], scores["text_offset"], strict=True):
        assert told["text"][offset:].startswith(token)
    assert all(2 <= len(likely) <= 3 for likely in scores["top_logprobs"])
    streamed = [chunk["choices"][0]["logprobs"] for chunk in server.stream("/v1/completions", **fields)]
    for name in ("tokens", "text_offset"):
        assert [value for one in streamed if one for value in one[name]] == scores[name]


def test_top_logprobs_need_logprobs(server: Served) -> None:
    body = {"messages": MESSAGES, "top_logprobs": 2}
    assert server.error("/v1/chat/completions", body)["param"] == "top_logprobs"
    assert (
        server.error("/v1/chat/completions", body | {"logprobs": True, "top_logprobs": 21})["param"] == "top_logprobs"
    )
    assert server.error("/v1/completions", {"prompt": "x", "logprobs": 6})["param"] == "logprobs"
