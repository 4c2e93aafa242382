"""Fixtures of the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from racer.cli import main
from support.command import PROMPT, Capture


@pytest.fixture
def ask(folder: Path, capsys: Capture) -> Any:
    """Run ``racer generate --json`` on the tiny model, and give the object."""

    def run(*arguments: str, prompt: str = PROMPT) -> dict[str, Any]:
        code = main(
            ["generate", "--json", "--model", str(folder), "--dtype", "fp32", "--device", "cpu", *arguments, prompt]
        )
        captured = capsys.readouterr()
        assert code == 0, captured.err
        assert captured.out.count("\n") == 1
        data: dict[str, Any] = json.loads(captured.out, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
        return data

    return run
