"""The command itself: warnings, help, version, and how fast it is there."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

import racer.discovery
from racer.cli import main
from racer.errors import PluginError
from support.command import COMMAND, Capture


def test_racers_own_warnings_are_lines(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    import warnings

    def resolve(*_: str) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("a drafter is\nleft out", racer.guard.PluginWarning, stacklevel=1)
            warnings.warn_explicit("noise", UserWarning, "somewhere/else.py", 1)
        raise PluginError("Stop here")

    monkeypatch.setattr(racer.discovery.plugins, "resolve", resolve)
    assert main(["generate", "x"]) == 2
    assert capsys.readouterr().err == "racer: warning: a drafter is left out\nracer: error: stop here\n"


@pytest.mark.parametrize("command", [[], ["generate"], ["batch"], ["chat"], ["serve"], ["plugins"]])
def test_help_has_examples(command: list[str], capsys: Capture) -> None:
    assert main([*command, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"Examples:\n    racer {' '.join(command)}".rstrip() in text


def test_bare_racer_is_help_and_version(capsys: Capture) -> None:
    assert main([]) == 0
    assert "Usage: racer" in capsys.readouterr().out
    for option in ("-v", "--version"):
        assert main([option]) == 0
        assert capsys.readouterr().out == f"racer {racer.__version__}\n"


LIGHT = """
import sys
from racer.cli import main
assert main(["--help"]) == main(["generate", "--help"]) == main(["plugins", "--help"]) == 0
assert main(["generate", "x", "--top-p", "0.5"]) == main(["generate", "x", "--model", "./nowhere"]) == 2
heavy = {"torch", "transformers", "numpy"} & set(sys.modules)
assert not heavy, heavy
"""


def test_help_and_refusals_import_nothing_heavy() -> None:
    subprocess.run([sys.executable, "-c", LIGHT], check=True, capture_output=True)


def test_help_is_fast() -> None:
    def seconds() -> float:
        started = time.perf_counter()
        subprocess.run([*COMMAND, "generate", "--help"], check=True, capture_output=True)
        return time.perf_counter() - started

    assert min(seconds() for _ in range(3)) < 0.5  # the best of three, as the machine may be busy
