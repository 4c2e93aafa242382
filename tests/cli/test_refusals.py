"""Wrong input is refused in one line, before anything heavy is loaded."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import pytest

from racer.cli import main
from racer.loading import pretrained
from support.command import Capture, refused
from support.tiny_folder import build_folder

BAD = [
    ([], "no PROMPT"),
    ([""], "prompt is empty"),
    ([" \n\t"], "prompt is empty"),
    (["x", "y"], "unexpected extra argument"),
    (["x", "--bogus"], "no such option"),
    (["x", "--budget"], "requires an argument"),
    *[(["x", "--budget", budget], "from 1 .* to 4096") for budget in ("0", "-3", str(10**9), "", "9" * 30)],
    *[(["x", "--budget", budget], "unknown budget.*from 1 to 4096") for budget in ("abc", "1.5", "nan")],
    (["x", "--drafter", "racr"], "unknown drafter 'racr'.*did you mean 'racer'"),
    (["x", "--drafter", "zzzzzz"], "unknown drafter.*There are .*retrieval"),
    (["x", "--verifier", "gredy"], "unknown verifier.*did you mean 'greedy'"),
    (["x", "--drafter", ""], "unknown drafter"),
    (["x", "--dtype", "int3"], "--dtype.*'bf16', 'fp16', 'fp32'"),
    (["x", "--device", "abacus"], "unknown device 'abacus'"),
    (["x", "--compile", "yes"], "--compile.*'graphs'"),
    (["x", "--model", "./no-such-folder"], "no such model folder"),
    (["x", "--model", ""], "no such model folder"),
    (["x", "--model", str(Path(__file__).parents[1])], "has no model"),
    *[(["x", "--temperature", value], "--temperature") for value in ("-1", "-0.001", "nan", "inf", "hot")],
    *[(["x", "--temperature", "1", "--top-p", value], "--top-p") for value in ("1.01", "0", "-1", "nan")],
    *[(["x", "--temperature", "1", "--top-k", value], "--top-k") for value in ("-1", "1.5", "nan", str(10**20))],
    *[(["x", "--temperature", "1", "--min-p", value], "--min-p") for value in ("-0.1", "2")],
    *[(["x", "--temperature", "1", "--seed", value], "--seed") for value in ("-1", str(2**63), "x")],
    *[(["x", "--max-new-tokens", value], "--max-new-tokens") for value in ("0", "-1", "many")],
    *[
        (["x", option, value], f"{option} has no effect without sampling: add --temperature")
        for option, value in (("--top-p", "0.5"), ("--top-k", "5"), ("--min-p", "0.1"), ("--seed", "1"))
    ],
    (["x", "--top-p", "0.5", "--temperature", "0"], "no effect without sampling"),
    (["x", "--seed", "1", "--verifier", "greedy"], "no effect without sampling"),
    (["x", "--verifier", "greedy", "--temperature", "1"], "asks for sampling.*greedily: drop one"),
    (["x", "--verifier", "sampling", "--temperature", "0"], "asks for greedy.*samples: drop one"),
]


@pytest.mark.parametrize(("arguments", "words"), BAD, ids=[" ".join(arguments)[:40] or "-" for arguments, _ in BAD])
def test_wrong_input_is_refused_in_one_line(
    arguments: list[str], words: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrained, "model", lambda *_: pytest.fail("the model was loaded"))
    assert re.search(words, refused(["generate", *arguments], capsys))


@pytest.mark.parametrize("arguments", [["--bogus"], ["frobnicate"], ["plugins", "extra"]])
def test_wrong_commands(arguments: list[str], capsys: Capture) -> None:
    refused(arguments, capsys)


def test_empty_standard_input(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    assert "prompt is empty" in refused(["generate", "-"], capsys)


def test_a_prompt_beyond_the_context(folder: Path, capsys: Capture) -> None:
    line = refused(["generate", "--model", str(folder), "--device", "cpu", "word " * 400], capsys)
    assert re.search(r"prompt has \d+ tokens, but the model's context is 128: shorten it to 127", line)


def test_a_template_that_fails(tmp_path: Path, capsys: Capture) -> None:
    broken = build_folder(tmp_path / "model")
    (broken / "chat_template.jinja").write_text("{{ raise_exception('no users here') }}")
    assert "no users here (--raw goes without it)" in refused(["generate", "--model", str(broken), "x"], capsys)
    assert main(["generate", "--model", str(broken), "--raw", "--max-new-tokens", "2", "x"]) == 0


def test_graphs_are_refused_where_there_is_no_gpu(folder: Path, capsys: Capture) -> None:
    asked = ["generate", "--model", str(folder), "--device", "cpu", "--compile", "graphs", "--max-new-tokens", "4", "x"]
    line = refused(asked, capsys)
    assert re.search("compile='graphs' needs a model on a CUDA device.*on cpu", line)
