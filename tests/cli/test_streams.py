"""Streams that are closed, full, or of another encoding."""

from __future__ import annotations

import io
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from racer.cli import main, streams
from racer.files import write_whole
from support.command import COMMAND, Capture, refused


def run(line: str) -> tuple[int, str, str]:
    """A line of bash in which RACER stands for the command: exit code, output, error."""
    line = f"set -o pipefail; {line}".replace("RACER", shlex.join(COMMAND))
    ran = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    return ran.returncode, ran.stdout, ran.stderr


@pytest.mark.parametrize(
    ("line", "code", "told"),
    [
        ("RACER --help > /dev/full", 2, "racer: error: no space left on device\n"),
        ("RACER generate --help > /dev/full", 2, "racer: error: no space left on device\n"),
        ("RACER --version >&-", 2, "racer: error: standard output is closed: there is nowhere to write to\n"),
        ("RACER generate - <&-", 2, "racer: error: standard input is closed: give PROMPT as an argument\n"),
        ("RACER generate - <&- >&- 2>&-", 2, ""),
        ("RACER --help | head -0", 141, ""),
        ("RACER --help 2>/dev/full | cat > /dev/null", 0, ""),
        ("RACER generate --bogus 2>/dev/full", 2, ""),
    ],
)
def test_closed_and_full_streams(line: str, code: int, told: str) -> None:
    assert run(line) == (code, "", told)


@pytest.mark.parametrize("json", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_full_disk_behind_the_answer(json: bool, folder: Path) -> None:
    line = f"RACER generate --model {folder} --device cpu --max-new-tokens 3 {'--json' if json else ''} x > /dev/full"
    code, _, told = run(line)
    assert code == 2
    assert told.endswith("racer: error: no space left on device\n")
    assert "Traceback" not in told


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("grün 😀".encode(), "grün 😀"),
        ("grün 😀".encode("utf-8-sig"), "grün 😀"),
        ("grün 😀".encode("utf-16"), "grün 😀"),
        (b"\xfe\xff" + "grün 😀".encode("utf-16-be"), "grün 😀"),
        ("grün 😀".encode("utf-32"), "grün 😀"),
        (b"\xff\xfeg", "�"),
        (b"gr\xfcn", "gr�n"),
        (b"", ""),
    ],
)
def test_marks_say_how_input_is_encoded(data: bytes, text: str) -> None:
    assert streams.decoded(data) == text


def test_two_bytes_a_character_without_a_mark_are_told(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("hello".encode("utf-16-le"))))
    assert "NUL bytes" in refused(["generate", "-"], capsys)


def test_input_that_cannot_be_read_is_told(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(io.StringIO):
        def read(self, *_: Any) -> str:
            raise IsADirectoryError(21, "Is a directory")

    monkeypatch.setattr(sys, "stdin", Broken())
    assert "is a directory" in refused(["generate", "-"], capsys)


def test_the_answer_comes_before_the_state(folder: Path, tmp_path: Path, capsys: Capture, monkeypatch: Any) -> None:
    """A disk that is full costs what was learned, not the answer."""
    from racer.strategies.context import state

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(state, "save_file", full)
    asked = ["generate", "--model", str(folder), "--device", "cpu", "--max-new-tokens", "3"]
    for json in ([], ["--json"]):
        assert main([*asked, "--state", str(tmp_path / "kept"), *json, "x"]) == 2
        captured = capsys.readouterr()
        assert len(captured.out) > 1
        assert captured.err.endswith("racer: error: no space left on device\n")
    assert list(tmp_path.iterdir()) == []


def test_files_are_written_as_a_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, link = tmp_path / "file", tmp_path / "link"
    link.symlink_to(path)
    write_whole(link, "one")
    assert link.is_symlink()
    assert path.read_text() == "one"
    write_whole("/dev/null", b"gone")
    assert Path("/dev/null").is_char_device()
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_whole(path, "two")
    assert path.read_text() == "one"
    assert sorted(found.name for found in tmp_path.iterdir()) == ["file", "link"]


def test_a_closed_output_is_told_as_click_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(click.ClickException, match="standard output is closed"):
        streams.prepare()
