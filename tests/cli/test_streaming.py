"""The stream of text, and how it ends."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from racer.cli import decoding, main
from racer.cli.decoding import PromptRun
from racer.loading.detokenizer import Detokenizer, decode
from support.command import COMMAND, PROMPT, Capture
from support.tiny_folder import SENTENCES, build_tokenizer

TOKENIZER = build_tokenizer()


def streamed(tokens: list[int]) -> str:
    text = Detokenizer(TOKENIZER)
    return "".join([text.add(token) for token in tokens]) + text.end()


@given(st.text() | st.sampled_from(SENTENCES))
def test_streamed_text_loses_nothing(text: str) -> None:
    tokens = TOKENIZER(text, add_special_tokens=False).input_ids
    assert streamed(tokens) == decode(TOKENIZER, tokens)


@given(st.lists(st.integers(0, len(TOKENIZER) - 1)))
def test_any_tokens_stream_to_their_text(tokens: list[int]) -> None:
    assert streamed(tokens) == decode(TOKENIZER, tokens)


def test_a_character_comes_whole() -> None:
    tokens = TOKENIZER("a😺b").input_ids
    text = Detokenizer(TOKENIZER)
    pieces = [text.add(token) for token in tokens]
    assert len(pieces) > 3
    assert [piece for piece in pieces if piece] == ["a", "😺", "b"]


def test_an_interrupt_keeps_what_is_there(folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(run: PromptRun, streamer: Any) -> None:
        for token in TOKENIZER("so far").input_ids:
            streamer.put(torch.tensor([token]))
        raise KeyboardInterrupt

    monkeypatch.setattr(decoding.PromptRun, "decode", interrupted)
    assert main(["generate", "--model", str(folder), "--max-new-tokens", "9", PROMPT]) == 130
    assert tuple(capsys.readouterr()) == ("so far\n", "")


def test_a_reader_that_leaves_ends_it_quietly(folder: Path) -> None:
    arguments = ["generate", "--model", str(folder), "--max-new-tokens", "100", PROMPT]
    with subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141
