"""The command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from racer_datastore.cli import main


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_build_and_info(tmp_path: Path, tokenizer_folder: Path) -> None:
    (tmp_path / "x.txt").write_text("the cat sat on the mat")
    built = run("build", tmp_path / "x.txt", "--tokenizer", tokenizer_folder, "--output", tmp_path / "x.idx")
    assert built.exit_code == 0, built.output
    assert "7 tokens" in built.stdout
    told = run("info", tmp_path / "x.idx", "--tokenizer", tokenizer_folder, "--json")
    assert told.exit_code == 0, told.output
    facts = json.loads(told.stdout)
    assert facts["tokens"] == 7
    assert facts["bytes"] == (tmp_path / "x.idx").stat().st_size
    assert "tokens" in run("info", tmp_path / "x.idx").stdout


@pytest.mark.parametrize("command", [[], ["build"], ["info"]])
def test_help_has_examples(command: list[str]) -> None:
    told = run(*command, "--help")
    assert told.exit_code == 0
    assert "Examples:\n    racer-datastore" in told.stdout


def test_errors_are_one_line_and_exit_with_2(tmp_path: Path, tokenizer_folder: Path) -> None:
    good, bad, output = tmp_path / "x.txt", tmp_path / "bad.jsonl", tmp_path / "x.idx"
    good.write_text("the cat")
    bad.write_text("{")
    for arguments in (
        ("build", tmp_path / "missing", "--tokenizer", tokenizer_folder, "--output", output),
        ("build", bad, "--tokenizer", tokenizer_folder, "--output", output),
        ("build", good, "--tokenizer", tmp_path / "missing", "--output", output),
        ("build", good, "--tokenizer", tokenizer_folder, "--output", tmp_path / "no" / "x.idx"),
        ("info", good),
        ("info", tmp_path / "missing"),
    ):
        result = run(*arguments)
        assert result.exit_code == 2, result.output
        assert result.stderr.startswith("Error: ")
        assert result.stderr.count("\n") == 1


def test_an_index_of_another_tokenizer_is_told(tmp_path: Path, tokenizer_folder: Path) -> None:
    from racer_datastore import write_index

    write_index(tmp_path / "x.idx", [[1, 2]], bytes(32))
    result = run("info", tmp_path / "x.idx", "--tokenizer", tokenizer_folder)
    assert result.exit_code == 2
    assert "another tokenizer" in result.stderr


def test_help_does_not_wait_for_torch() -> None:
    code = """
import sys
from racer_datastore.cli import main
main(["build", "--help"], standalone_mode=False)
sys.exit("torch" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0


ABSURD = ["", "a\0b", "\udcff\ud800", "~nobody-at-all/x", "/dev/null/x", "x" * 5000]


@pytest.mark.parametrize("value", ABSURD, ids=ascii)
def test_absurd_values_end_with_2_and_no_traceback(value: str, tmp_path: Path, tokenizer_folder: Path) -> None:
    good, output = tmp_path / "x.txt", tmp_path / "x.idx"
    good.write_text("the cat")
    for arguments in (
        ("build", value, "--tokenizer", tokenizer_folder, "--output", output),
        ("build", good, "--tokenizer", value, "--output", output),
        ("build", good, "--tokenizer", tokenizer_folder, "--output", value),
        ("build", good, "--tokenizer", tokenizer_folder, "--output", output, "--depth", value),
        ("info", value),
        ("info", good, "--tokenizer", value),
    ):
        result = run(*arguments)
        assert result.exit_code == 2, (arguments, result.output, result.exception)
        assert "Traceback" not in result.stderr


def test_a_corpus_with_a_byte_order_mark(tmp_path: Path, tokenizer_folder: Path) -> None:
    output = tmp_path / "x.idx"
    for name, text in (("x.txt", "the cat"), ("x.jsonl", json.dumps({"text": "the cat"}) + "\n")):
        (tmp_path / name).write_text(text, encoding="utf-8-sig")
        built = run("build", tmp_path / name, "--tokenizer", tokenizer_folder, "--output", output)
        assert built.exit_code == 0, built.output
        assert "3 tokens" in built.stdout
    (tmp_path / "x.txt").write_text("the cat", encoding="utf-16")
    refused = run("build", tmp_path / "x.txt", "--tokenizer", tokenizer_folder, "--output", output)
    assert refused.exit_code == 2
    assert "not UTF-8" in refused.stderr


def test_a_device_is_not_replaced_by_an_index(tmp_path: Path, tokenizer_folder: Path) -> None:
    pipe, text = tmp_path / "pipe", tmp_path / "x.txt"
    os.mkfifo(pipe)
    text.write_text("the cat")
    refused = run("build", text, "--tokenizer", tokenizer_folder, "--output", pipe)
    assert refused.exit_code == 2
    assert "no regular file" in refused.stderr
    assert pipe.is_fifo()
