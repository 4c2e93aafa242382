"""The prompt: keys, history, and what ends it."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from prompt_toolkit.input import PipeInput, create_pipe_input
from prompt_toolkit.output import DummyOutput

from racer.chat.readers import Lines, Terminal, history_file


@pytest.fixture
def keys() -> Iterator[PipeInput]:
    with create_pipe_input() as keys:
        yield keys


def typed(keys: PipeInput, text: str, history: Path | None = None) -> str | None:
    keys.send_text(text)
    return Terminal(history, keys, DummyOutput()).read()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("one\r", "one"),
        ("one\ntwo\r", "one\ntwo"),  # Ctrl+J
        ("one\x1b\rtwo\r", "one\ntwo"),  # Alt+Enter
        ("\x1b[200~one\ntwo\x1b[201~\r", "one\ntwo"),  # pasted
        ("Grüße 😀\r", "Grüße 😀"),
        ("nonsense\x03one\r", "one"),  # Ctrl+C empties the prompt
        ("one\x04\r", "one"),  # Ctrl+D only ends it where it is empty
        ("\x03", None),
        ("\x04", None),
        ("nonsense\x03\x03", None),
    ],
)
def test_keys(text: str, expected: str | None, keys: PipeInput) -> None:
    assert typed(keys, text) == expected


def test_history_lasts_from_chat_to_chat(keys: PipeInput, tmp_path: Path) -> None:
    file = tmp_path / "new" / "chat_history"
    assert typed(keys, "one\ntwo\r", file) == "one\ntwo"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert typed(keys, "\x1b[A\r", file) == "one\ntwo"  # the arrow up


def test_a_history_that_cannot_be_kept_costs_nothing(keys: PipeInput, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert typed(keys, "one\r", tmp_path / "file" / "chat_history") == "one"


def test_history_is_in_the_users_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert history_file().name == "chat_history"
    assert history_file().parent.name == "racer"


def test_lines_end() -> None:
    lines = Lines(["one\n", "two\n"])
    assert [lines.read() for _ in range(3)] == ["one\n", "two\n", None]
