"""The command ``racer``, how it is run and how it refuses."""

from __future__ import annotations

import sys

import pytest

from racer.cli import main

PROMPT = "The quick brown fox"
COMMAND = [sys.executable, "-m", "racer.cli"]
Capture = pytest.CaptureFixture[str]


def refused(arguments: list[str], capsys: Capture) -> str:
    """The one line of a refusal."""
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("racer: error: ")
    assert captured.err.count("\n") == 1
    assert captured.err.endswith("\n")
    return captured.err
