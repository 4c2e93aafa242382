"""What fails in a run is written down, and the run goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from racer.bench.adapters.transformers_generate import TransformersAdapter
from racer.bench.questions import Question
from racer.bench.summary import summarise
from racer.bench.trials import Trial
from racer.guard import PluginWarning
from racer.loading.loaded_model import LoadedModel
from racer.strategies import PromptLookup
from support.runner_example import QUESTIONS, bench, names
from support.versions import recent


def test_one_failing_question_is_written_down_and_the_run_goes_on(
    loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = Question(5, "b", "b", ("much too long " * 60,), source="s")
    run = bench(loaded, tmp_path, "racer", questions=[long, *QUESTIONS])
    answer, calls = TransformersAdapter.answer, []

    def fail_once(self: TransformersAdapter, *arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:  # the first is the warm-up
            raise RuntimeError("out of luck\nand more")
        return answer(self, *arguments)

    monkeypatch.setattr(TransformersAdapter, "answer", fail_once)
    run.run()
    results = summarise(run.journal, run.questions, names(run), sample=False)
    failures = {(failure["question_id"], failure["method"]): failure["error"] for failure in results["failures"]}
    assert set(failures) == {(5, "none"), (5, "hf"), (5, "racer"), (1, "hf")}
    assert "the model's context is 128" in failures[5, "racer"]
    assert failures[1, "hf"] == "RuntimeError: out of luck"
    assert results["methods"]["racer"]["overall"]["questions"] == 4
    assert results["methods"]["hf"]["overall"]["questions"] == 3


def test_a_conversation_whose_plain_answer_failed_ends_there(
    loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = Question(1, "a", "a", ("much too long " * 60, "and?"), source="s")
    run = bench(loaded, tmp_path, "racer", questions=[long])
    run.run()
    errors = [trial.error for trial in run.journal.trials.values()]
    assert len(errors) == 6
    assert all(errors)
    assert "plain answer to the turn before is missing" in (run.journal.trials[0, 1, "racer"].error or "")


def test_a_drafter_that_fails_at_work_is_told_of(
    loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError("in the drafter")

    monkeypatch.setattr(PromptLookup, "grow", broken)
    run = bench(loaded, tmp_path, "prompt-lookup@8", questions=QUESTIONS[1:2])
    with pytest.warns(PluginWarning):
        run.run()
    results = summarise(run.journal, run.questions, names(run), sample=False)
    assert results["methods"]["prompt-lookup@8"]["overall"]["identical_rate"] == 1
    assert [failure["method"] for failure in results["failures"]] == ["prompt-lookup@8"]
    assert "in the drafter" in results["failures"][0]["error"]


def test_a_prompt_that_is_too_long_fails_alone(loaded: LoadedModel, tmp_path: Path) -> None:
    long = Question(5, "b", "b", ("much too long " * 60,), source="s")
    run = bench(loaded, tmp_path, "racer", questions=[QUESTIONS[1], long, QUESTIONS[3]], batch_size=2)
    assert run.batches == [[0, 2], [1]]
    run.run()
    results = summarise(run.journal, run.questions, names(run), sample=False)
    assert {failure["question_id"] for failure in results["failures"]} == {5}
    assert results["methods"]["hf"]["overall"]["questions"] == 2


@recent("its prompt lookup fails without a stop token")
def test_an_interrupted_run_goes_on_where_it_was(loaded: LoadedModel, tmp_path: Path) -> None:
    run = bench(loaded, tmp_path)
    told: list[Trial] = []

    def interrupt(trial: Trial) -> None:
        told.append(trial)
        if len(told) == 7:
            raise KeyboardInterrupt

    run.told = interrupt
    with pytest.raises(KeyboardInterrupt):
        run.run()
    again = bench(loaded, tmp_path)
    assert list(again.journal.trials.values()) == told
    more: list[Trial] = []
    again.told = more.append
    again.run()
    assert len(more) == again.total() - 7
    assert list(again.journal.trials.values()) == told + more
    whole = bench(loaded, tmp_path)
    whole.told = lambda trial: pytest.fail("nothing is left to measure")
    whole.run()
