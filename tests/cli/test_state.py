"""``racer generate --state``: one command learns from the one before."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from racer.cli import main
from racer.core.products import by_torch
from racer.loading import models
from support.tiny_folder import build_folder
from support.ways import take

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def arguments(folder: Path, tmp_path: Path) -> list[str]:
    common = ["generate", "--model", str(folder), "--dtype", "fp32", "--device", "cpu", "--max-new-tokens", "24"]
    return [*common, "--budget", "16", "--state", str(tmp_path / "my.racer"), "The quick brown fox"]


def run(arguments: list[str], capsys: Capture) -> tuple[str, str]:
    code = main(arguments)
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return captured.out, captured.err


def steps(told: str) -> int:
    return int(told.split(" steps")[0].split()[-1])


def test_the_second_run_says_the_same_in_fewer_steps(arguments: list[str], capsys: Capture) -> None:
    first, learning = run(arguments, capsys)
    second, knowing = run(arguments, capsys)
    assert first == second
    assert steps(knowing) < steps(learning)


def test_warming_up_and_comparing_leave_the_file_alone(
    arguments: list[str], tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    take(monkeypatch, by_torch)  # not what is fastest just now, which may round otherwise in the second run
    run(arguments, capsys)
    alone = load_file(tmp_path / "my.racer")
    (tmp_path / "my.racer").unlink()
    run([*arguments[:-1], "--compare", arguments[-1]], capsys)
    compared = load_file(tmp_path / "my.racer")
    assert compared.keys() == alone.keys()
    for name, learned in alone.items():
        assert (compared[name] == learned).all(), name


def test_another_models_file_is_refused_and_left_alone(arguments: list[str], tmp_path: Path, capsys: Capture) -> None:
    run(arguments, capsys)
    kept = (tmp_path / "my.racer").read_bytes()
    other = build_folder(tmp_path / "other", num_hidden_layers=3)
    assert main([*arguments, "--model", str(other)]) == 2
    assert "another model" in capsys.readouterr().err
    assert (tmp_path / "my.racer").read_bytes() == kept


def test_a_damaged_file_is_refused_and_left_alone(arguments: list[str], tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "my.racer").write_bytes(b"something else")
    assert main(arguments) == 2
    assert "my.racer" in capsys.readouterr().err
    assert (tmp_path / "my.racer").read_bytes() == b"something else"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--drafter", "prompt-lookup"], "keeps none"),
        (["--state", "/no/such/folder/file"], "there is no folder"),
        (["--state", "/"], "is a directory"),
    ],
)
def test_what_cannot_be_kept_is_told_before_the_model_loads(
    arguments: list[str], given: list[str], told: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "load", lambda *a, **k: pytest.fail("loaded a model first"))
    assert main([*arguments, *given]) == 2
    assert told in capsys.readouterr().err


def test_the_fingerprint_tells_vocabularies_and_shapes_apart(folder: Path, tmp_path: Path) -> None:
    one, same = models.load(str(folder)), models.load(str(folder), dtype="fp32")
    assert one.fingerprint == same.fingerprint
    same.tokenizer.add_tokens(["a new one"])
    assert one.fingerprint != same.fingerprint
    assert models.load(str(build_folder(tmp_path, num_hidden_layers=3))).fingerprint != one.fingerprint


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_keeps_what_was_learned(arguments: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "racer.cli", *arguments]
    command[command.index("--max-new-tokens") + 1] = "400"
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            os.read(process.stdout.fileno(), 1)  # it has begun to answer
            while process.poll() is None:
                process.send_signal(signal.SIGINT)
                with suppress(subprocess.TimeoutExpired):  # a loaded machine may take long to write the file
                    process.wait(timeout=20)  # a second one would end that
        finally:
            process.kill()
    assert (tmp_path / "my.racer").stat().st_size > 1_000_000
