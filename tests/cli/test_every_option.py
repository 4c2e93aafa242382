"""Every option of every command takes absurd values: one line on standard error, exit code 2, no traceback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest

import racer.bench.questions.hub
from racer.cli.app import app, main
from racer.loading import pretrained
from support.command import Capture

LOADED = "got as far as the weights"
ABSURD = {
    "empty": "",
    "blank": " ",
    "not a number": "nan",
    "infinite": "inf",
    "negative": "-1",
    "beyond floats": "9" * 400,
    "beyond Python's digits": "9" * 5000,
    "NUL": "a\0b",
    "half a character": "\udcff",
    "lone surrogate": "\ud800",
    "nobody's home": "~nobody-at-all/x",
    "a folder": "/",
    "below a file": "/dev/null/x",
    "a device": "/dev/full",
    "too long": "x" * 5000,
    "a control character": "a\x1b[31mb",
    "two lines": "a\nb",
}
HUB_IDS = {"not a number", "infinite", "negative"}
ODD_NAMES = {"blank", "half a character", "a control character", "two lines"}
NUMBERS = {"beyond floats"}
SAMPLES = ["--temperature", "1"]
FREE_PORT = ["--port", "0"]
UNPRINTABLE = {"empty", "blank", "NUL", "half a character", "lone surrogate", "a control character", "two lines"}
NOTHING: set[str] = set()

TABLE: dict[tuple[str, str], tuple[list[str], set[str]]] = {
    ("generate", "prompt"): ([], ABSURD.keys() - {"empty", "blank"}),
    ("generate", "--model"): ([], HUB_IDS),
    ("generate", "--drafter"): ([], NOTHING),
    ("generate", "--verifier"): ([], NOTHING),
    ("generate", "--budget"): ([], NOTHING),
    ("generate", "--max-new-tokens"): ([], NOTHING),
    ("generate", "--temperature"): ([], NOTHING),
    ("generate", "--top-p"): (SAMPLES, NOTHING),
    ("generate", "--top-k"): (SAMPLES, NOTHING),
    ("generate", "--min-p"): (SAMPLES, NOTHING),
    ("generate", "--seed"): (SAMPLES, NOTHING),
    ("generate", "--dtype"): ([], NOTHING),
    ("generate", "--weights"): ([], NOTHING),
    ("generate", "--device"): ([], NOTHING),
    ("generate", "--compile"): ([], NOTHING),
    ("generate", "--state"): ([], HUB_IDS | ODD_NAMES),
    ("bench", "--model"): ([], HUB_IDS),
    ("bench", "--questions"): ([], NOTHING),
    ("bench", "--methods"): ([], NOTHING),
    ("bench", "--peers"): ([], NOTHING),
    ("bench", "--max-new-tokens"): ([], NOTHING),
    ("bench", "--limit"): ([], NOTHING),
    ("bench", "--budget"): ([], NOTHING),
    ("bench", "--seed"): ([], NOTHING),
    ("bench", "--temperature"): ([], NOTHING),
    ("bench", "--top-p"): (SAMPLES, NOTHING),
    ("bench", "--dtype"): ([], NOTHING),
    ("bench", "--weights"): ([], NOTHING),
    ("bench", "--device"): ([], NOTHING),
    ("bench", "--compile"): ([], NOTHING),
    ("bench", "--batch-size"): ([], NOTHING),
    ("bench", "--output"): ([], HUB_IDS | ODD_NAMES),
    ("batch", "source"): ([], NOTHING),
    ("batch", "output"): ([], HUB_IDS | ODD_NAMES),
    ("batch", "--model"): ([], HUB_IDS),
    ("batch", "--drafter"): ([], NOTHING),
    ("batch", "--budget"): ([], NOTHING),
    ("batch", "--max-new-tokens"): ([], NOTHING),
    ("batch", "--temperature"): ([], NOTHING),
    ("batch", "--top-p"): ([], NOTHING),
    ("batch", "--seed"): ([], NOTHING),
    ("batch", "--rows"): ([], NOTHING),
    ("batch", "--max-tokens"): ([], NOTHING),
    ("batch", "--system"): ([], set(ABSURD)),
    ("batch", "--dtype"): ([], NOTHING),
    ("batch", "--weights"): ([], NOTHING),
    ("batch", "--device"): ([], NOTHING),
    ("chat", "--model"): ([], HUB_IDS),
    ("chat", "--system"): ([], set(ABSURD)),
    ("chat", "--drafter"): ([], NOTHING),
    ("chat", "--budget"): ([], NOTHING),
    ("chat", "--max-new-tokens"): ([], NOTHING),
    ("chat", "--max-tokens"): ([], NOTHING),
    ("chat", "--temperature"): ([], NOTHING),
    ("chat", "--top-p"): (SAMPLES, NOTHING),
    ("chat", "--seed"): (SAMPLES, NOTHING),
    ("chat", "--dtype"): ([], NOTHING),
    ("chat", "--weights"): ([], NOTHING),
    ("chat", "--device"): ([], NOTHING),
    ("serve", "--model"): (FREE_PORT, HUB_IDS),
    ("serve", "--drafter"): (FREE_PORT, NOTHING),
    ("serve", "--budget"): (FREE_PORT, NOTHING),
    ("serve", "--host"): (FREE_PORT, NOTHING),
    ("serve", "--port"): (FREE_PORT, NOTHING),
    ("serve", "--max-tokens"): (FREE_PORT, NOTHING),
    ("serve", "--max-rows"): (FREE_PORT, NOTHING),
    ("serve", "--max-waiting"): (FREE_PORT, NOTHING),
    ("serve", "--max-new-tokens"): (FREE_PORT, NOTHING),
    ("serve", "--max-body"): (FREE_PORT, NOTHING),
    ("serve", "--timeout"): (FREE_PORT, NOTHING),
    ("serve", "--drain"): (FREE_PORT, NOTHING),
    ("serve", "--cors-origin"): (FREE_PORT, NOTHING),
    ("serve", "--allowed-host"): (FREE_PORT, HUB_IDS),
    ("serve", "--max-connections"): (FREE_PORT, NOTHING),
    ("serve", "--log-level"): (FREE_PORT, NOTHING),
    ("serve", "--dtype"): (FREE_PORT, NOTHING),
    ("serve", "--weights"): (FREE_PORT, NOTHING),
    ("serve", "--device"): (FREE_PORT, NOTHING),
    ("serve", "--served-name"): (FREE_PORT, ABSURD.keys() - UNPRINTABLE),
    ("serve", "--api-key"): (FREE_PORT, ABSURD.keys() - UNPRINTABLE),
    ("plugins", "--model"): ([], HUB_IDS),
    ("plugins", "--tokens"): (["--model", "default"], NOTHING),
}  # fmt: skip
"""By option: what has to be given with it, and which of these values are not absurd there."""
FLAGS = {
    *(("generate", name) for name in ("--pack", "--no-pack", "--raw", "--compare", "--json")),
    *(("bench", name) for name in ("--pack", "--no-pack", "--cold", "--score", "--resume")),
    *(("batch", name) for name in ("--pack", "--no-pack", "--raw")),
    *(("chat", name) for name in ("--pack", "--no-pack")),
    *(("serve", name) for name in ("--pack", "--no-pack")),
    ("plugins", "--json"),
}


def names(param: click.Parameter) -> list[str]:
    """As they are typed."""
    return [*param.opts, *param.secondary_opts] if isinstance(param, click.Option) else [str(param.name)]


def test_no_option_is_forgotten() -> None:
    there = {
        (command, name): param
        for command, found in app.commands.items()
        for param in found.params
        for name in names(param)
    }
    flags = {key for key, param in there.items() if isinstance(param, click.Option) and param.is_flag}
    assert flags == FLAGS
    assert there.keys() - flags == TABLE.keys()


@pytest.fixture
def typed(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> Any:
    """Run a command; its line on standard error."""

    source = tmp_path / "in.jsonl"
    source.write_text('{"prompt": "a question"}')

    def stop(*_: Any) -> None:
        raise RuntimeError(LOADED)

    def not_installed(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(pretrained, "model", stop)
    monkeypatch.setattr(racer.bench.questions.hub, "import_module", not_installed)
    monkeypatch.chdir(tmp_path)

    def run(command: str, *arguments: str) -> str:
        common = {
            "generate": ["--model", str(folder), "--device", "cpu"],
            "bench": ["--model", str(folder), "--device", "cpu", "--output", str(tmp_path / "out")],
            "batch": ["--model", str(folder), "--device", "cpu", str(source), str(tmp_path / "out.jsonl")],
            "chat": ["--model", str(folder), "--device", "cpu"],
        }.get(command, [])
        if arguments[0] in ("source", "output"):  # an argument in place of the one that is there
            common[-2 if arguments[0] == "source" else -1] = arguments[1]
            arguments, common = ("--", *common[-2:]), common[:-2]
        prompt = ["a question"] if command == "generate" and not arguments[-1].startswith("PROMPT") else []
        given = [argument.removeprefix("PROMPT") for argument in arguments]
        code = main(
            [command, *common, *prompt, *(["--", given[-1]] if not prompt and command == "generate" else given)]
        )
        captured = capsys.readouterr()
        assert code == 2, captured
        assert captured.out == ""
        lines = [line for line in captured.err.splitlines() if not line.startswith("racer: warning: ")]
        assert len(lines) == 1, captured.err
        assert lines[0].startswith("racer: error: ")
        assert lines[0].isprintable(), "a value must not steer the terminal"
        return lines[0]

    return run


@pytest.mark.parametrize("key", TABLE, ids=" ".join)
def test_absurd_values(key: tuple[str, str], typed: Any) -> None:
    (command, name), (needs, fine) = key, TABLE[key]
    for what, value in ABSURD.items():
        if (name, what) == ("--output", "a folder"):
            continue  # some users may write there
        line = typed(command, *needs, f"PROMPT{value}") if name == "prompt" else typed(command, *needs, name, value)
        assert (LOADED in line) == (what in fine), (what, line)


@pytest.mark.parametrize("key", sorted(FLAGS), ids=" ".join)
def test_flags_take_no_value(key: tuple[str, str], typed: Any) -> None:
    command, name = key
    assert "does not take a value" in typed(command, f"{name}=yes")


@pytest.mark.parametrize("option", ["--model", "--state", "--questions", "--output"])
def test_files_for_folders_and_folders_for_files(option: str, typed: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("{}")
    (tmp_path / "file.gguf").mkdir()
    wrong = {"--model": ["file", "file.gguf", "./file/x"], "--state": [".", "file/x", "/dev/null"],
             "--questions": [".", "file/x"], "--output": ["file", "file/x", "/dev/null"]}[option]  # fmt: skip
    for value in wrong:
        line = typed("bench" if option in ("--questions", "--output") else "generate", option, value)
        assert LOADED not in line
