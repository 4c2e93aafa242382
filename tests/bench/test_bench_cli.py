"""``racer bench`` as its user meets it: files, refusals, interruption, resumption."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from racer.bench.adapters.transformers_generate import TransformersAdapter
from racer.cli import main
from support.tiny_folder import SENTENCES
from support.versions import recent

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "questions.jsonl"
    lines = [
        {"question_id": number, "category": group, "turns": [SENTENCES[number % 4]], "reference": "7"}
        for number, group in enumerate(["one", "one", "two", "two"])
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture
def arguments(folder: Path, questions: Path, tmp_path: Path) -> list[str]:
    return [
        "bench", "--model", str(folder), "--dtype", "fp32", "--device", "cpu", "--questions", str(questions),
        "--max-new-tokens", "8", "--output", str(tmp_path / "out"), "--limit", "1",
    ]  # fmt: skip


def results_of(folder: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return data


def test_a_run_writes_all_its_files_and_shows_how_it_goes(
    arguments: list[str], tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["racer", *arguments])
    assert main(arguments) == 0
    captured = capsys.readouterr()
    out = tmp_path / "out"
    assert "tokens/s" in captured.out
    assert "report.html" in captured.out.replace("\n", "")
    assert "8 of 8 trials" in captured.err
    names = {path.name for path in out.iterdir()}
    assert names >= {"setup.json", "trials.jsonl", "results.json", "report.md", "report.html", "answers", "plots"}
    results = results_of(out)
    assert list(results["methods"]) == ["none", "hf", "hf-prompt-lookup", "racer"]
    assert results["methods"]["racer"]["overall"]["identical_rate"] == 1
    assert set(results["methods"]["racer"]["groups"]) == {"one", "two"} == set(results["setup"]["groups"])
    assert results["setup"]["complete"] is True
    assert results["setup"]["command"].startswith("racer ")
    assert {path.name for path in (out / "answers").iterdir()} == {
        "none.jsonl", "hf.jsonl", "hf-prompt-lookup.jsonl", "racer.jsonl",
    }  # fmt: skip
    answer = json.loads((out / "answers" / "racer.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert list(answer) == ["question_id", "category", "answer_id", "model_id", "choices", "tstamp"]
    assert sum(answer["choices"][0]["accept_lengths"]) + 1 == answer["choices"][0]["new_tokens"][0]


@recent("its prompt lookup fails without a stop token")
def test_a_finished_run_is_not_overwritten_and_resuming_it_measures_nothing(
    arguments: list[str], tmp_path: Path, capsys: Capture
) -> None:
    assert main(arguments) == 0
    capsys.readouterr()
    before = (tmp_path / "out" / "trials.jsonl").read_bytes()
    assert main(arguments) == 2
    assert "--resume" in capsys.readouterr().err
    assert main([*arguments, "--resume"]) == 0
    assert (tmp_path / "out" / "trials.jsonl").read_bytes() == before
    assert results_of(tmp_path / "out")["setup"]["resumed"] == 1


def test_resuming_with_other_settings_is_refused(arguments: list[str], tmp_path: Path, capsys: Capture) -> None:
    assert main(arguments) == 0
    before = (tmp_path / "out" / "setup.json").read_bytes()
    capsys.readouterr()
    assert main([*arguments, "--resume", "--max-new-tokens", "9"]) == 2
    assert "begun with max new tokens 8, not 9" in capsys.readouterr().err
    assert main([*arguments, "--resume", "--limit", "2"]) == 2
    assert "begun with limit 1, not 2" in capsys.readouterr().err
    assert main([*arguments, "--resume", "--methods", "logits"]) == 2
    assert "begun with methods none,hf,hf-prompt-lookup,racer, not none,hf,logits" in capsys.readouterr().err
    assert (tmp_path / "out" / "setup.json").read_bytes() == before


def test_trials_without_their_setup_are_not_taken_for_another_run(
    arguments: list[str], tmp_path: Path, capsys: Capture
) -> None:
    assert main(arguments) == 0
    (tmp_path / "out" / "setup.json").unlink()
    capsys.readouterr()
    assert main([*arguments, "--resume"]) == 2
    assert "missing or damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda setup: [], "expected an object, not []"),
        (lambda setup: setup | {"threads": "2"}, "expected int, not '2' @ $.threads"),
        (lambda setup: setup | {"groups": ["one"]}, "@ $.groups"),
        (lambda setup: setup | {"resumed_by": 1}, "extra fields found (resumed_by)"),
        (lambda setup: {name: value for name, value in setup.items() if name != "seed"},
         "required field missing @ $.seed"),
    ],
)  # fmt: skip
def test_a_setup_of_another_shape_is_told_in_one_line(
    arguments: list[str], tmp_path: Path, capsys: Capture, damage: Callable[[Any], Any], words: str
) -> None:
    assert main([*arguments, "--methods", "none"]) == 0
    path = tmp_path / "out" / "setup.json"
    path.write_text(json.dumps(damage(json.loads(path.read_text(encoding="utf-8")))), encoding="utf-8")
    capsys.readouterr()
    told = refused([*arguments, "--methods", "none", "--resume"], capsys)
    assert f"{path} is missing or damaged (" in told
    assert words in told


def test_resuming_nothing_is_a_new_run_and_says_so(arguments: list[str], capsys: Capture) -> None:
    assert main([*arguments, "--resume"]) == 0
    assert "this is a new one" in capsys.readouterr().err


def test_batches_leave_prompt_lookup_out_unless_it_is_asked_for(arguments: list[str], tmp_path: Path) -> None:
    assert main([*arguments, "--batch-size", "2", "--limit", "2"]) == 0
    results = results_of(tmp_path / "out")
    assert list(results["methods"]) == ["none", "hf", "racer"]
    assert results["methods"]["racer"]["overall"]["identical_rate"] == 1


def test_an_interrupt_keeps_what_is_there(
    arguments: list[str], tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer, calls = TransformersAdapter.answer, []

    def interrupted(self: TransformersAdapter, *given: Any) -> Any:
        calls.append(1)
        if len(calls) == 5:  # two of them are warm-ups
            raise KeyboardInterrupt
        return answer(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(TransformersAdapter, "answer", interrupted)
        assert main(arguments) == 130
    assert "--resume goes on" in capsys.readouterr().err
    out = tmp_path / "out"
    setup = results_of(out)["setup"]
    assert setup["complete"] is False
    assert 0 < setup["trials_done"] < setup["trials_total"] == 8
    assert (out / "report.html").exists()
    done = (out / "trials.jsonl").read_bytes()
    assert main([*arguments, "--resume"]) == 0
    assert (out / "trials.jsonl").read_bytes().startswith(done)
    assert results_of(out)["setup"]["complete"] is True


@pytest.mark.usefixtures("interruptible")
@pytest.mark.slow  # in process: the test above; of a real process: that of --state
def test_ctrl_c_ends_a_real_run_quietly(arguments: list[str], questions: Path, tmp_path: Path) -> None:
    lines = [json.dumps({"prompt": SENTENCES[number % 4]}) + "\n" for number in range(1000)]  # minutes of work
    questions.write_text("".join(lines), encoding="utf-8")
    arguments[arguments.index("--max-new-tokens") + 1] = "60"
    arguments[arguments.index("--limit") + 1] = "all"
    process = subprocess.Popen(
        [sys.executable, "-m", "racer.cli", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    journal, deadline = tmp_path / "out" / "trials.jsonl", time.monotonic() + 120
    while not (journal.exists() and journal.stat().st_size):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert (tmp_path / "out" / "results.json").exists()


def test_a_terminal_gets_a_live_table_and_a_bar(arguments: list[str]) -> None:
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "racer.cli", *arguments],
        stdout=subprocess.DEVNULL, stderr=child, env=os.environ | {"TERM": "xterm-256color", "COLUMNS": "120"},
    )  # fmt: skip
    os.close(child)
    seen = b""
    while True:
        try:
            part = os.read(parent, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        seen += part
    assert process.wait(timeout=60) == 0
    text = seen.decode(errors="replace")
    assert "tokens/s" in text
    assert "8/8" in text
    assert "left" in text


def test_answers_are_scored_on_request(arguments: list[str], tmp_path: Path) -> None:
    assert main([*arguments, "--score"]) == 0
    assert results_of(tmp_path / "out")["methods"]["racer"]["overall"]["score"]["asked"] == 2


def refused(arguments: list[str], capsys: Capture) -> str:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("racer: error: ")
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--methods", "racr"], "did you mean"),
        (["--methods", "racer,,hf"], "commas between"),
        (["--limit", "0"], "whole number from 1"),
        (["--top-p", "0.9"], "add --temperature"),
        (["--temperature", "-1"], "expected 0 (greedy) or a number from"),
        (["--batch-size", "2", "--methods", "hf-prompt-lookup"], "one prompt at a time"),
        (["--questions", "missing.jsonl"], "no such question file"),
        (["--model", "./missing"], "no such model"),
        (["--output", "/dev/null/x"], "'--output': '/dev/null/x': Not a directory"),
    ],
)
def test_wrong_input_is_one_line(arguments: list[str], extra: list[str], message: str, capsys: Capture) -> None:
    assert message in refused([*arguments, *extra], capsys)


def test_scoring_needs_a_reference(arguments: list[str], questions: Path, capsys: Capture) -> None:
    questions.write_text('{"prompt": "How many?"}\n', encoding="utf-8")
    assert "--score needs questions" in refused([*arguments, "--score"], capsys)


def test_a_run_in_which_everything_fails_says_so(arguments: list[str], questions: Path, capsys: Capture) -> None:
    questions.write_text(json.dumps({"prompt": "too long " * 100}) + "\n", encoding="utf-8")
    assert main(arguments) == 2
    assert "every trial failed" in capsys.readouterr().err


def test_help_has_examples(capsys: Capture) -> None:
    assert main(["bench", "--help"]) == 0
    assert "racer bench --limit 2" in capsys.readouterr().out
