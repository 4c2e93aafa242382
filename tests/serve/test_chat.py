"""Answers of a server are those of ``racer.generate``, whole and streamed, whatever is asked for."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import LogitsProcessorList

from racer.serve.processors import CountPenalty
from support.serving import MESSAGES, Served, prompt_of, solo, text_of

WAYS = [("/v1/chat/completions", "chat.completion"), ("/v1/completions", "text_completion")]


def texts(chunks: list[dict[str, Any]]) -> dict[int, str]:
    """By choice."""
    found: dict[int, str] = {}
    for chunk in chunks:
        for choice in chunk["choices"]:
            text = choice["delta"].get("content", "") if "delta" in choice else choice["text"]
            found[choice["index"]] = found.get(choice["index"], "") + text
    return found


def text(choice: dict[str, Any]) -> str:
    return choice["message"]["content"] if "message" in choice else choice["text"]


SETTINGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "greedy": ({}, {}),
    "a seed": ({"temperature": 1, "seed": 3}, {"seed": 3}),
    "a negative seed": ({"temperature": 1, "seed": -3}, {"seed": 2**63 - 3}),
    "by default": ({"temperature": None, "seed": 4}, {"seed": 4}),
    "top-p": ({"temperature": 0.7, "top_p": 0.8, "seed": 3}, {"temperature": 0.7, "top_p": 0.8, "seed": 3}),
    "top-k and min-p": ({"temperature": 1, "top_k": 5, "min_p": 0.1, "seed": 1}, {"top_k": 5, "min_p": 0.1, "seed": 1}),
    "no top-k": ({"temperature": 1, "top_k": -1, "seed": 1}, {"seed": 1}),
    "as cold as can be": ({"temperature": 1e-9, "seed": 3}, {}),
    "nothing but the best": ({"temperature": 1, "top_p": 0, "seed": 3}, {}),
    "repetition": ({"repetition_penalty": 1.3}, {"repetition_penalty": 1.3}),
    "bias": ({"logit_bias": {"40": 100, "41": -100}}, {"sequence_bias": {(40,): 100.0, (41,): -100.0}}),
    "no drafts": ({"racer": {"draft": False}}, {}),
    "a budget": ({"racer": {"budget": 3}}, {}),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_answers_are_those_of_a_solo_run(name: str, server: Served, loaded: Any) -> None:
    fields, settings = SETTINGS[name]
    expected = solo(loaded, prompt_of(loaded), 48, **settings)
    told = server.chat(max_tokens=48, **fields)
    (choice,) = told["choices"]
    assert choice["message"]["content"] == text_of(loaded, expected)
    assert told["usage"]["completion_tokens"] == len(expected)
    assert choice["finish_reason"] == ("stop" if expected[-1] == loaded.tokenizer.eos_token_id else "length")
    assert texts(server.stream(max_tokens=48, **fields)) == {0: text_of(loaded, expected)}


def test_penalties_count_the_answer_alone(server: Served, loaded: Any) -> None:
    prompt = prompt_of(loaded)
    penalty = LogitsProcessorList([CountPenalty(len(prompt), 0.5, 1.5)])
    expected = text_of(loaded, solo(loaded, prompt, 48, logits_processor=penalty))
    told = server.chat(max_tokens=48, presence_penalty=0.5, frequency_penalty=1.5)
    assert text(told["choices"][0]) == expected
    assert expected != text(server.chat(max_tokens=48)["choices"][0])


def test_a_completion_has_no_template(server: Served, loaded: Any) -> None:
    prompts = [loaded.tokenizer(one).input_ids for one in ("The quick", "A tree is")]
    expected = [text_of(loaded, solo(loaded, prompt, 16)) for prompt in prompts]
    by_text = server.complete(prompt=["The quick", "A tree is"])
    assert [text(choice) for choice in by_text["choices"]] == expected
    assert by_text["usage"]["prompt_tokens"] == sum(map(len, prompts))
    assert [text(choice) for choice in server.complete(prompt=prompts)["choices"]] == expected
    assert text(server.complete(prompt=prompts[0])["choices"][0]) == expected[0]
    assert by_text["usage"]["completion_tokens"] == 32, "sixteen each is OpenAI's default"


@pytest.mark.parametrize("path", [path for path, _ in WAYS])
def test_several_answers_are_several_seeds(path: str, server: Served, loaded: Any) -> None:
    prompt = prompt_of(loaded) if "chat" in path else loaded.tokenizer("The quick").input_ids
    fields = {"n": 3, "seed": 7, "temperature": 1, "max_tokens": 20}
    expected = [text_of(loaded, solo(loaded, prompt, 20, seed=7 + number)) for number in range(3)]
    told = server.chat(**fields) if "chat" in path else server.complete(**fields)
    assert [choice["index"] for choice in told["choices"]] == [0, 1, 2]
    assert [text(choice) for choice in told["choices"]] == expected
    assert texts(server.stream(path, **fields)) == dict(enumerate(expected))
    usage = told["usage"]
    assert usage["prompt_tokens"] == len(prompt), "it counts once"
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] == len(prompt) + 60
    assert usage["prompt_tokens_details"]["cached_tokens"] <= len(prompt)


@pytest.mark.parametrize("path", [path for path, _ in WAYS])
@pytest.mark.parametrize("begin", [3, 11, 20])
def test_text_ends_before_a_stop_string(path: str, begin: int, server: Served) -> None:
    def ask(**fields: Any) -> Any:
        fields |= {"max_tokens": 40}
        return server.chat(**fields) if "chat" in path else server.complete(**fields)

    whole = text(ask()["choices"][0])
    stop = whole[begin : begin + 3]
    cut = whole[: whole.index(stop)]
    for stops in (stop, ["nowhere to be found", stop]):
        told = ask(stop=stops)
        assert text(told["choices"][0]) == cut
        assert told["choices"][0]["finish_reason"] == "stop"
        chunks = server.stream(path, stop=stops, max_tokens=40)
        assert texts(chunks) == {0: cut}
        assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert told["usage"]["completion_tokens"] < 40, "the engine has ended it"


@pytest.mark.parametrize(("path", "kind"), WAYS)
def test_the_shape_of_a_stream(path: str, kind: str, server: Served) -> None:
    chunks = server.stream(path, max_tokens=20, stream_options={"include_usage": True})
    assert {chunk["object"] for chunk in chunks} == {kind + ".chunk" if "chat" in path else kind}
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    *_, ending, last = chunks
    assert ending["choices"][0]["finish_reason"] == "length"
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 20
    assert last["usage"]["total_tokens"] == 20 + last["usage"]["prompt_tokens"]
    if "chat" in path:
        assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        assert ending["choices"][0]["delta"] == {}
    without = server.stream(path, max_tokens=20)
    assert not any("usage" in chunk for chunk in without)
    assert without[-1]["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("path", [path for path, _ in WAYS])
def test_each_chunk_says_if_its_text_was_drafted(path: str, server: Served) -> None:
    fields = {"max_tokens": 60, "racer": {"show_drafted": True}}
    server.stream(path, **fields)  # now much of it is known
    chunks = server.stream(path, stream_options={"include_usage": True}, **fields)
    spoken = [chunk["choices"][0] for chunk in chunks if chunk["choices"]]
    marks = [choice["racer"]["drafted"] for choice in spoken if "racer" in choice]
    assert True in marks
    assert all("racer" in choice for choice in spoken if choice.get("text") or choice.get("delta", {}).get("content"))
    assert texts(chunks) == texts(server.stream(path, max_tokens=60))
    figures, usage = chunks[-1]["racer"], chunks[-1]["usage"]["completion_tokens_details"]
    assert figures["drafted"] == usage["accepted_prediction_tokens"] + usage["rejected_prediction_tokens"]
    assert figures["accepted"] == usage["accepted_prediction_tokens"] > 0
    assert figures["mean_accepted_tokens"] == pytest.approx(59 / figures["steps"])
    assert figures["tokens_per_second"] > 0
    assert chunks[-1].keys() >= {"racer", "usage"}
    assert server.stream(path, **fields)[-1]["racer"].keys() == figures.keys()


def test_without_drafts_none_are_told(server: Served) -> None:
    told = server.chat(max_tokens=30, racer={"draft": False, "show_drafted": True})
    assert told["racer"]["drafted"] == told["racer"]["accepted"] == 0
    assert told["racer"]["steps"] == 29
    assert told["racer"]["mean_accepted_tokens"] == 1
    chunks = server.stream(max_tokens=30, racer={"draft": False, "show_drafted": True})
    assert not any(choice.get("racer", {}).get("drafted") for chunk in chunks for choice in chunk["choices"])


def test_an_answer_ends_with_the_context(server: Served) -> None:
    told = server.chat(messages=[{"role": "user", "content": "a" * 900}], max_tokens=5000)
    assert told["usage"]["total_tokens"] == 1024
    assert told["choices"][0]["finish_reason"] == "length"


def test_the_next_turn_of_a_chat_is_partly_cached(server: Served) -> None:
    answer = text(server.chat(max_tokens=30, messages=[{"role": "user", "content": "dogs " * 40}])["choices"][0])
    assert answer
    again = server.chat(max_tokens=5, messages=[{"role": "user", "content": "dogs " * 40 + "and trees"}])
    details = again["usage"]["prompt_tokens_details"]
    assert again["usage"]["prompt_tokens"] / 2 < details["cached_tokens"] < again["usage"]["prompt_tokens"]


def test_max_completion_tokens_counts_more(server: Served) -> None:
    assert server.chat(max_tokens=3, max_completion_tokens=7)["usage"]["completion_tokens"] == 7


def test_the_model_is_listed(server: Served) -> None:
    (model,) = server.client.get("/v1/models").json()["data"]
    assert (model["id"], model["object"], model["max_model_len"]) == ("tiny", "model", 1024)
    assert server.client.get("/v1/models/tiny").json() == model
    assert server.chat(model="tiny", max_tokens=1)["model"] == "tiny"


def test_tokens_and_back(server: Served, loaded: Any) -> None:
    told = server.post("/tokenize", {"prompt": "The quick 你好"}).json()
    assert told == {
        "tokens": loaded.tokenizer("The quick 你好").input_ids,
        "count": told["count"],
        "max_model_len": 1024,
    }
    assert told["count"] == len(told["tokens"])
    assert server.post("/detokenize", {"tokens": told["tokens"]}).json() == {"prompt": "The quick 你好"}
    assert server.post("/tokenize", {"messages": MESSAGES}).json()["tokens"] == prompt_of(loaded)
    assert server.post("/detokenize", {"tokens": prompt_of(loaded)}).json()["prompt"].startswith("<|user|>")


def test_events_are_plain_lines_of_ascii(server: Served) -> None:
    """Some clients end lines at Unicode's line separators too, and at a lone carriage return."""
    body = {"messages": MESSAGES, "stream": True, "temperature": 0, "max_tokens": 200, "logit_bias": {"5": -100}}
    raw = server.post("/v1/chat/completions", body).content
    assert b"\r" not in raw
    assert raw.isascii()
    assert raw.endswith(b"data: [DONE]\n\n")
    assert raw.count(b"\n\n") == raw.count(b"data: ")
