"""``racer generate``: every answer and its figures."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import racer.discovery
from racer.cli import main
from racer.core.packed_weights import pack
from racer.loading import models
from racer.loading.detokenizer import decode
from racer.loading.embedded import EMBEDDED_NAME
from support.command import PROMPT, Capture


def test_an_answer_beyond_the_context_is_cut(folder: Path, capsys: Capture) -> None:
    assert (
        main(["generate", "--json", "--model", str(folder), "--device", "cpu", "--max-new-tokens", "999", PROMPT]) == 0
    )
    captured = capsys.readouterr()
    data = json.loads(captured.out)
    assert data["prompt_tokens"] + data["new_tokens"] == 128
    assert captured.err == (
        f"racer: --max-new-tokens is cut from 999 to {data['new_tokens']}: that fills the model's context after a "
        f"prompt of {data['prompt_tokens']} tokens\n"
    )


def test_json_has_all_figures(ask: Any, folder: Path) -> None:
    data = ask("--max-new-tokens", "40", "--budget", "16")
    assert data["new_tokens"] == len(data["token_ids"]) == 40
    assert sum(data["accept_lengths"]) == 39  # the first token is the prefill's
    assert len(data["accept_lengths"]) == data["steps"]
    assert data["mean_accepted_tokens"] == pytest.approx(39 / data["steps"])
    assert data["tokens_per_second"] == pytest.approx(40 / data["seconds"])
    expected = {
        "drafter": "racer",
        "verifier": "greedy",
        "model": str(folder),
        "budget": 16,
        "dtype": "fp32",
        "seed": None,
    }
    assert {name: data[name] for name in expected} == expected
    assert data["device"] == "cpu"
    assert data["torch"] == torch.__version__
    assert {"prefill", "draft", "forward", "verify", "commit"} <= set(data["milliseconds"])
    assert sum(data["accepted"].values()) <= sum(data["drafted"].values())
    assert "plain_seconds" not in data
    assert data["text"] == decode(models.load_tokenizer(str(folder)), data["token_ids"])


def test_the_tokens_are_those_of_transformers(ask: Any, folder: Path) -> None:
    loaded = models.load(str(folder), dtype="fp32", device="cpu")
    ids = torch.tensor([loaded.tokenizer(f"<|user|>{PROMPT}<|answer|>").input_ids])
    with models.quiet():
        expected = loaded.model.generate(ids, max_new_tokens=24, do_sample=False, pad_token_id=0)[0, ids.shape[1] :]
    assert ask("--max-new-tokens", "24")["token_ids"] == expected.tolist()
    raw = ask("--max-new-tokens", "4", "--raw")
    assert raw["prompt_tokens"] == len(loaded.tokenizer(PROMPT).input_ids) == ids.shape[1] - 2


def test_one_token_has_no_step_and_no_nan(ask: Any) -> None:
    data = ask("--max-new-tokens", "1", "--compare")
    assert (data["steps"], data["accept_lengths"], data["mean_accepted_tokens"]) == (0, [], None)
    assert data["identical"]


@pytest.mark.parametrize("drafter", ["racer", "none", "prompt-lookup"])
@pytest.mark.parametrize("sampling", [[], ["--temperature", "0.7", "--top-p", "0.9", "--min-p", "0.01", "--seed", "3"]])
def test_compare_finds_the_same_tokens(ask: Any, drafter: str, sampling: list[str]) -> None:
    data = ask("--max-new-tokens", "48", "--compare", "--drafter", drafter, *sampling)
    assert data["identical"]
    assert data["plain_token_ids"] == data["token_ids"]
    assert (data["first_difference"], data["top2_gap"]) == (None, None)
    assert data["speedup"] == pytest.approx(data["plain_seconds"] / data["seconds"])
    assert data["plain_tokens_per_second"] == pytest.approx(48 / data["plain_seconds"])
    assert data["verifier"] == ("sampling" if sampling else "greedy")


def test_static_shapes_give_the_same_tokens(ask: Any) -> None:
    dynamic, static = (ask("--max-new-tokens", "40", "--budget", "8", "--compile", way) for way in ("off", "static"))
    for name in ("token_ids", "accept_lengths"):
        assert static[name] == dynamic[name]


def test_packed_weights_give_the_same_tokens(ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    choices: list[Any] = []
    monkeypatch.setattr("racer.engine.opening.pack", lambda *given: (choices.append(given[1]), pack(*given))[1])
    answers = [ask("--max-new-tokens", "40", *how)["token_ids"] for how in ([], ["--pack"], ["--no-pack"])]
    assert answers[0] == answers[1] == answers[2]
    assert choices == ["auto", True, False]


def test_sampling_repeats_by_its_seed(ask: Any) -> None:
    drawn = ask("--verifier", "sampling", "--max-new-tokens", "16")
    assert isinstance(drawn["seed"], int)
    again = ask("--temperature", "1", "--seed", str(drawn["seed"]), "--max-new-tokens", "16")
    assert again["token_ids"] == drawn["token_ids"]
    assert (
        ask("--temperature", "1", "--seed", str(drawn["seed"] + 1), "--max-new-tokens", "16")["token_ids"]
        != drawn["token_ids"]
    )
    assert ask("--temperature", "0", "--max-new-tokens", "16")["verifier"] == "greedy"


def test_the_prompt_comes_from_standard_input(ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(PROMPT + "\n"))
    piped = ask("--max-new-tokens", "8", prompt="-")
    assert piped["token_ids"] == ask("--max-new-tokens", "8")["token_ids"]


def test_bytes_that_are_no_text_are_taken(ask: Any) -> None:
    assert ask("--max-new-tokens", "2", prompt="half \udcf0 character")["new_tokens"] == 2


@pytest.mark.filterwarnings("always::racer.hf.generate.PlainDecodingWarning")
def test_a_model_that_knows_no_trees_is_decoded_plainly(ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = ask("--max-new-tokens", "8")
    monkeypatch.setattr("racer.hf.loop.probe", lambda model: racer.core.support.Support(None, "it has state", 320))
    data = ask("--max-new-tokens", "8", "--compare")
    assert data["token_ids"] == usual["token_ids"]
    assert (data["drafter"], data["steps"], data["mean_accepted_tokens"]) == ("none", 7, 1)


def test_the_embedded_model_answers(embedded: Path, capsys: Capture) -> None:
    assert (
        main(["generate", "--json", "--device", "cpu", "--max-new-tokens", "16", "What is the capital of France?"]) == 0
    )
    data = json.loads(capsys.readouterr().out)
    assert "Paris" in data["text"]
    assert data["model"] == EMBEDDED_NAME


@pytest.mark.slow
@pytest.mark.parametrize(
    "question", ["List the numbers from one to thirty.", "Write a Python function that sorts a list."]
)
def test_the_embedded_model_compares_equal_in_full_precision(embedded: Path, capsys: Capture, question: str) -> None:
    arguments = ["generate", "--json", "--compare", "--device", "cpu", "--dtype", "fp32", "--max-new-tokens", "96"]
    assert main([*arguments, question]) == 0
    assert json.loads(capsys.readouterr().out)["identical"]
