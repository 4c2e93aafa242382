"""``racer chat``: lines from a pipe, and a real terminal."""

from __future__ import annotations

import io
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import racer.loading.extras
from racer.cli import chat, main
from support.command import COMMAND, Capture, refused

OPTIONS = ["--dtype", "fp32", "--device", "cpu"]


@pytest.fixture
def piped(folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> Any:
    def run(text: str, *more: str) -> tuple[str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))
        assert main(["chat", "--model", str(folder), *OPTIONS, "--max-new-tokens", "10", *more]) == 0
        told = capsys.readouterr()
        return told.out, told.err

    return run


def test_lines_of_a_pipe_are_turns(piped: Any) -> None:
    out, err = piped("The dog\n\n/stats\nThe fox\n/quit\nnever\n")
    assert "\x1b" not in out
    lines = err.splitlines()
    assert all(line.startswith("racer: ") for line in lines)
    assert sum("tokens/s" in line for line in lines) == 3  # two answers and the statistics
    assert re.search(r"racer: [\d.]+ tokens/s, [\d.]+ mean accepted tokens, \d+ of \d+ drafted accepted, \d+ of \d+ pr",
                     err)  # fmt: skip
    assert "racer: 1 turns, 0 of them forgotten" in lines
    alone, _ = piped("The dog\n")
    assert out.startswith(alone)


def test_sampled_chats_repeat_by_their_seed(piped: Any) -> None:
    sampled = ["--temperature", "1", "--seed", "4"]
    assert piped("The dog\n/retry\n", *sampled)[0] == piped("The dog\n/retry\n", *sampled)[0]
    assert piped("The dog\n", *sampled)[0] != piped("The dog\n")[0]


def test_settings_without_effect_are_refused(capsys: Capture) -> None:
    for given in (["--top-p", "0.5"], ["--seed", "1"], ["--seed", "1", "--temperature", "0"]):
        assert "has no effect without sampling" in refused(["chat", *given], capsys)


def test_a_terminal_needs_the_extra(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "_on_terminal", lambda: True)
    monkeypatch.setattr(racer.loading.extras, "find_spec", lambda name: None)
    message = refused(["chat"], capsys)
    assert message == (
        'racer: error: a chat in the terminal needs prompt_toolkit: pip install "racer-decoding[chat]"\n'
    )


class Typist:
    """Somebody before a terminal."""

    def __init__(self, folder: Path, home: Path, *more: str, **environment: str) -> None:
        self._control, terminal = pty.openpty()
        self.process = subprocess.Popen(
            [*COMMAND, "chat", "--model", str(folder), *OPTIONS, *more],
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            start_new_session=True,
            env=os.environ | {"XDG_DATA_HOME": str(home), "TERM": "xterm", "COLUMNS": "100"} | environment,
        )
        os.close(terminal)
        self.seen, self._place = "", 0

    def wait_for(self, text: str, seconds: float = 25) -> str:
        """What is shown up to a text, from where the last waiting ended."""
        deadline, begin = time.monotonic() + seconds, self._place
        while (found := self.seen.find(text, begin)) < 0:
            assert time.monotonic() < deadline, self.seen
            if not select.select([self._control], [], [], 1)[0]:
                continue
            self.seen += os.read(self._control, 65536).decode(errors="replace")
            if self.seen.endswith("\x1b[6n"):  # where is the cursor?
                os.write(self._control, b"\x1b[1;1R")
        self._place = found + len(text)
        return self.seen[begin : self._place]

    def wait_for_prompt(self) -> None:
        """Until what is typed is read as keys; brackets around what is pasted are asked for at that time."""
        self.wait_for("\x1b[?2004h")
        self.wait_for(">")

    def type(self, text: str) -> None:
        os.write(self._control, text.encode())

    def interrupt(self) -> None:
        """As the terminal does at Ctrl+C."""
        self.process.send_signal(signal.SIGINT)

    def end(self) -> int:
        """Its exit code."""
        try:
            while data := os.read(self._control, 65536):
                self.seen += data.decode(errors="replace")
        except OSError:  # how Linux tells the end
            pass
        os.close(self._control)
        return self.process.wait(30)


@pytest.mark.usefixtures("interruptible")
def test_a_real_terminal(folder_of_long_contexts: Path, tmp_path: Path) -> None:
    typist = Typist(folder_of_long_contexts, tmp_path, "--max-new-tokens", "1900", "--budget", "16")
    typist.wait_for("/help lists the commands")
    typist.wait_for_prompt()
    typist.type("The quick brown fox\r")
    typist.wait_for("\x1b[32m")  # accepted drafts are green
    typist.interrupt()
    shown = typist.wait_for("prompt tokens reused")
    assert "(stopped)" in shown
    typist.wait_for_prompt()
    typist.type("/stats\r")
    assert "1 turns" in typist.wait_for("tokens of context")
    typist.wait_for_prompt()
    typist.type("\x04")
    assert typist.end() == 0
    assert "Traceback" not in typist.seen
    assert "The quick brown fox" in (tmp_path / "racer" / "chat_history").read_text()


def test_no_colour_where_none_is_wanted(folder: Path, tmp_path: Path) -> None:
    typist = Typist(folder, tmp_path, "--max-new-tokens", "60", "--budget", "16", NO_COLOR="1")
    typist.wait_for_prompt()
    typist.type("The quick brown fox\r")
    typist.wait_for("prompt tokens reused")
    typist.wait_for_prompt()
    typist.type("\x03")
    assert typist.end() == 0
    assert "\x1b[32m" not in typist.seen
