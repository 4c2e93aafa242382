"""What is shown: text, colours, figures and JSON."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from racer.cli import main
from racer.cli.render import TextSink, print_json
from support.command import COMMAND, PROMPT, Capture


@pytest.mark.parametrize("drafter", ["racer", "none", "prompt-lookup"])
def test_the_stream_is_the_text(ask: Any, folder: Path, capsys: Capture, drafter: str) -> None:
    limit = ["--max-new-tokens", "60", "--drafter", drafter]
    text = ask(*limit)["text"]
    assert main(["generate", "--model", str(folder), "--dtype", "fp32", "--device", "cpu", *limit, PROMPT]) == 0
    captured = capsys.readouterr()
    assert captured.out == text + "\n"
    assert re.fullmatch(
        r"[\d.]+ tokens/s, [\d.]+ mean accepted tokens, \d+ steps, 60 new tokens in [\d.]+ s "
        rf"\(drafter {drafter}, verifier greedy\)\n",
        captured.err,
    )


def test_compare_in_words(folder: Path, capsys: Capture) -> None:
    arguments = ["generate", "--model", str(folder), "--dtype", "fp32", "--max-new-tokens", "24", PROMPT, "--compare"]
    assert main([*arguments, "--temperature", "0.9", "--seed", "5"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].endswith("verifier sampling, seed 5)")
    assert re.match(r"[\d.]+x the speed of plain decoding .*; the tokens are identical", lines[1])
    assert main([*arguments, "--verifier", "typical"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[2] == "verifier typical is lossy: its tokens may differ from those of plain decoding"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_drafted_text_is_green_on_a_terminal_only(
    ask: Any,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limit = ["--max-new-tokens", "60", "--budget", "32"]
    data = ask(*limit)
    assert sum(data["accepted"].values()) > 5
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    written = []
    for _ in range(2):
        monkeypatch.setattr(sys, "stdout", Terminal())
        assert main(["generate", "--model", str(folder), "--dtype", "fp32", "--device", "cpu", *limit, PROMPT]) == 0
        written.append(sys.stdout.getvalue())  # type: ignore[attr-defined]
        monkeypatch.setenv("NO_COLOR", "1")
    coloured, plain = written
    visible = "".join(c for c in data["text"] if c in "\n\t" or not (ord(c) < 32 or 127 <= ord(c) < 160))
    assert "\x1b[32m" in coloured
    assert re.sub(r"\x1b\[\d+m", "", coloured) == visible + "\n" == plain


def test_a_models_text_cannot_steer_the_terminal() -> None:
    out = Terminal()
    TextSink(out)("a\x1b[2Jb\x07\r\n\tc\x9b", False)
    assert out.getvalue() == "a[2Jb\n\tc"


def test_a_real_terminal(folder: Path) -> None:
    """One run through a pseudo-terminal: colours there, and the same text as through a pipe."""
    arguments = [
        "generate",
        "--model",
        str(folder),
        "--dtype",
        "fp32",
        "--max-new-tokens",
        "40",
        "--budget",
        "32",
        PROMPT,
    ]
    ours, theirs = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"} | {"TERM": "xterm"}
    with subprocess.Popen([*COMMAND, *arguments], stdout=theirs, stderr=subprocess.PIPE, env=environment) as process:
        os.close(theirs)
        shown = b""
        while chunk := _read(ours):
            shown += chunk
    os.close(ours)
    assert process.returncode == 0
    assert b"\x1b[32m" in shown


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError:  # on Linux, the end of a terminal
        return b""


def test_json_has_no_nan(capsys: Capture) -> None:
    print_json({"a": float("nan"), "b": [1.5, float("inf")], "c": "😀"})
    assert capsys.readouterr().out == '{"a": null, "b": [1.5, null], "c": "\\ud83d\\ude00"}\n'
