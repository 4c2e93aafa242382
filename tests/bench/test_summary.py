"""Figures from trials, against the definitions worked out by hand or anew."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from racer.bench.answers import file_name, write_answers
from racer.bench.questions import Question
from racer.bench.run.journal import Journal
from racer.bench.score import answered_number, is_right, reference_number
from racer.bench.summary import summarise
from racer.bench.trials import Measured, Trial

METHODS = ("none", "hf", "racer")


def spec_bench_speedup(answers: Path, baseline: Path) -> tuple[float, float]:
    """Spec-Bench's speed computation from its definition: speedup, and mean accepted tokens."""

    def read(path: Path) -> tuple[list[float], list[int]]:
        speeds, lengths = [], []
        for line in path.read_text(encoding="utf-8").splitlines():
            choice = json.loads(line)["choices"][0]
            speeds.append(sum(choice["new_tokens"]) / sum(choice["wall_time"]))
            lengths.extend(choice["accept_lengths"])
        return speeds, lengths

    speeds, lengths = read(answers)
    return statistics.fmean(speeds) / statistics.fmean(read(baseline)[0]), statistics.fmean(lengths)


@st.composite
def runs(draw: st.DrawFn) -> tuple[Journal, list[Question]]:
    """Random journals: several groups, one or two turns, every method with its own lengths and times."""
    journal, questions = Journal(Path("unused")), []
    for number in range(draw(st.integers(1, 6))):
        turns = draw(st.integers(1, 2))
        group = draw(st.sampled_from(["a", "b"]))
        questions.append(Question(number, "c", group, ("?",) * turns, source="s"))
        for turn in range(turns):
            for method in METHODS:
                lengths = draw(st.lists(st.integers(1, 5), min_size=1, max_size=6))
                tokens = draw(st.lists(st.integers(0, 3), min_size=sum(lengths) + 1, max_size=sum(lengths) + 1))
                measured = Measured(
                    tokens=[tokens],
                    accept_lengths=[lengths],
                    seconds=draw(st.floats(0.1, 9)),
                    first_token_seconds=0.05,
                    drafted=sum(lengths),
                    kept=sum(lengths) - len(lengths),
                    nodes=[length + 1 for length in lengths],
                    step_milliseconds=[None] + [3.0] * (len(lengths) - 1),
                )
                trial = Trial(
                    number=number, turn=turn, method=method, group=group, rows=[number], prompt_tokens=[3], time=0.0,
                    measured=measured, texts=["text"],
                )  # fmt: skip
                journal.trials[trial.key] = trial
    return journal, questions


@given(runs())
def test_answer_files_give_our_speedup_by_spec_benchs_definition(
    tmp_path_factory: pytest.TempPathFactory, run: tuple[Journal, list[Question]]
) -> None:
    journal, questions = run
    folder = tmp_path_factory.mktemp("answers")
    write_answers(folder, journal, questions, METHODS)
    figures = summarise(journal, questions, METHODS, sample=False)["methods"]["racer"]["overall"]
    for baseline in ("none", "hf"):
        speedup, accepted = spec_bench_speedup(folder / file_name("racer"), folder / file_name(baseline))
        assert figures[f"speedup_vs_{baseline}"] == pytest.approx(speedup)
        assert figures["mean_accepted_tokens"] == pytest.approx(accepted)


@given(runs())
def test_figures_hold_together(run: tuple[Journal, list[Question]]) -> None:
    journal, questions = run
    methods = summarise(journal, questions, METHODS, sample=False)["methods"]
    json.dumps(methods, allow_nan=False)
    for name, part in methods.items():
        overall, groups = part["overall"], part["groups"].values()
        assert overall["questions"] == len(questions) == sum(group["questions"] for group in groups)
        assert overall["new_tokens"] == sum(group["new_tokens"] for group in groups)
        depth = overall["acceptance_by_depth"]
        assert depth == sorted(depth, reverse=True)
        assert 1 + sum(depth) == pytest.approx(overall["mean_accepted_tokens"])  # E[n] = sum of P(n > d)
        calls = [trial.measured for trial in journal.trials.values() if trial.method == name and trial.measured]
        assert overall["drafted_nodes"] - overall["wasted_nodes"] == sum(call.kept for call in calls)
        for figure in ("tokens_per_second", "mean_accepted_tokens", "speedup_vs_none"):
            interval = overall[f"{figure}_ci"]
            assert (interval is not None) == (len(questions) >= 5)
            if interval:
                assert interval[0] <= overall[figure] * 1.000001
                assert overall[figure] <= interval[1] * 1.000001
    assert methods["none"]["overall"]["speedup_vs_none"] == pytest.approx(1)
    assert methods["none"]["overall"]["identical_rate"] == 1


def test_steps_that_drafted_are_told_apart() -> None:
    lengths, nodes = [[1, 3, 1, 2], [2, 1]], [1, 8, 1, 4]
    measured = Measured(tokens=[[0] * 8, [0] * 4], accept_lengths=lengths, nodes=nodes, seconds=1.0)
    question = Question(0, "g", "g", ("?",))
    journal = Journal(Path("unused"))
    for method in ("none", "racer"):
        trial = Trial(
            number=0, turn=0, method=method, group="g", rows=[0, 1], prompt_tokens=[1, 1], time=0.0, measured=measured,
            texts=["", ""],
        )  # fmt: skip
        journal.trials[trial.key] = trial
    questions = [question, attrs.evolve(question, question_id=1)]
    figures = summarise(journal, questions, ("none", "racer"), sample=False)["methods"]["racer"]["overall"]
    assert figures["mean_accepted_tokens"] == pytest.approx(10 / 6)
    assert figures["mean_accepted_tokens_drafted"] == pytest.approx((3 + 2 + 1) / 3)


def simple(method: str, row: int, tokens: list[int], seconds: float, **changes: Any) -> Trial:
    measured = Measured(tokens=[tokens], accept_lengths=[[1] * (len(tokens) - 1)], seconds=seconds)
    given: dict[str, Any] = {"measured": measured, "texts": ["x"], "time": 0.0, "prompt_tokens": [1], "turn": 0}
    return Trial(number=row, method=method, group="g", rows=[row], **(given | changes))


def journal_of(*trials: Trial) -> Journal:
    return Journal(Path("unused"), {trial.key: trial for trial in trials})


QUESTIONS = [Question(n, "c", "g", ("?",), reference="42", source="s") for n in range(2)]


def test_a_failed_question_counts_for_nobody_it_is_compared_with() -> None:
    failed = simple("racer", 1, [], 0, measured=None, texts=[], error="RuntimeError: boom")
    journal = journal_of(
        simple("none", 0, [1, 2], 1.0),
        simple("none", 1, [1, 2], 100.0),
        simple("racer", 0, [1, 2], 0.5),
        failed,
    )
    results = summarise(journal, QUESTIONS, ("none", "racer"), sample=False)
    figures = results["methods"]["racer"]["overall"]
    assert figures["questions"] == 1
    assert figures["failures"] == 1
    assert figures["speedup_vs_none"] == pytest.approx(2)
    assert figures["speedup_vs_hf"] is None
    assert results["failures"] == [
        {"method": "racer", "group": "g", "question_id": 1, "turn": 0, "error": "RuntimeError: boom", "answered": False}
    ]


def test_a_plugin_that_failed_is_told_of_and_its_call_has_not_failed() -> None:
    journal = journal_of(simple("none", 0, [1, 2], 1.0), simple("racer", 0, [1, 2], 0.5, complaint="it is left out"))
    results = summarise(journal, QUESTIONS, ("none", "racer"), sample=False)
    assert results["methods"]["racer"]["overall"]["failures"] == 0
    assert [(found["error"], found["answered"]) for found in results["failures"]] == [("it is left out", True)]


def test_differing_answers_are_counted_with_their_gaps() -> None:
    journal = journal_of(
        simple("none", 0, [1, 2], 1.0),
        simple("none", 1, [1, 2], 1.0),
        simple("racer", 0, [1, 2], 1.0),
        simple("racer", 1, [1, 3], 1.0),
    )
    journal.gaps[1, 0, "racer"] = [0.125]
    figures = summarise(journal, QUESTIONS, ("none", "racer"), sample=False)["methods"]["racer"]["overall"]
    assert figures["identical_rate"] == 0.5
    assert figures["divergences"] == 1
    assert figures["divergence_gap_median"] == figures["divergence_gap_max"] == 0.125
    assert figures["divergence_gap_unknown"] == 0
    journal.gaps[1, 0, "racer"] = [None]
    figures = summarise(journal, QUESTIONS, ("none", "racer"), sample=False)["methods"]["racer"]["overall"]
    assert (figures["divergence_gap_max"], figures["divergence_gap_unknown"]) == (None, 1)


def test_sampled_peers_are_not_compared_token_by_token() -> None:
    journal = journal_of(*(simple(method, row, [1, row], 1.0) for method in METHODS for row in (0, 1)))
    methods = summarise(journal, QUESTIONS, METHODS, sample=True)["methods"]
    assert methods["hf"]["overall"]["identical_rate"] is methods["hf"]["overall"]["divergences"] is None
    assert methods["racer"]["overall"]["identical_rate"] == 1


def test_time_is_split_per_step_and_host_is_the_rest() -> None:
    phases = {"prefill": 40.0, "draft": 2.0, "forward": 30.0, "verify": 4.0, "commit": 1.0, "observe": 1.0}
    measured = Measured(
        tokens=[[1, 2, 3]], accept_lengths=[[1, 1]], seconds=0.1, nodes=[8, 8], step_milliseconds=[None, 5.0],
        milliseconds=phases | {"call": 100.0},
    )  # fmt: skip
    results = summarise(
        journal_of(simple("racer", 0, [], 0, measured=measured)), QUESTIONS[:1], ("racer",), sample=False
    )["methods"]["racer"]
    assert results["overall"]["milliseconds"] == {
        "prefill": 40, "draft": 1, "forward": 15, "verify": 2, "commit": 0.5, "observe": 0.5, "host": 11,
    }  # fmt: skip
    assert results["cost_curve"] == [{"nodes": 8, "milliseconds": 5.0, "steps": 1}]


def test_a_batchs_time_is_shared_by_its_rows() -> None:
    measured = Measured(tokens=[[1, 2], [3, 4, 5, 6]], accept_lengths=[[1], [1] * 3], seconds=2.0)
    trial = simple("none", 0, [], 0, measured=measured, texts=["x", "y"])
    journal = journal_of(attrs.evolve(trial, rows=[0, 1]))
    figures = summarise(journal, QUESTIONS, ("none",), sample=False)["methods"]["none"]["overall"]
    assert figures["tokens_per_second"] == pytest.approx((2 / 1 + 4 / 1) / 2)


def test_questions_of_one_batch_are_drawn_together() -> None:
    def interval(size: int) -> float:
        """Width of the interval over 40 questions in batches of ``size``, all of a batch at one speed."""
        questions = [Question(n, "c", "g", ("?",), source="s") for n in range(40)]
        trials = []
        for number in range(40 // size):
            rows = list(range(number * size, (number + 1) * size))
            measured = Measured(tokens=[[1, 2]] * size, accept_lengths=[[1]] * size, seconds=size * (1 + number % 2))
            trials.append(simple("none", number, [], 0, measured=measured, texts=["x"] * size))
            trials[-1] = attrs.evolve(trials[-1], rows=rows)
        figures = summarise(journal_of(*trials), questions, ("none",), sample=False)["methods"]["none"]["overall"]
        low, high = figures["tokens_per_second_ci"]
        return float(high - low)

    assert interval(8) == pytest.approx(interval(1) * 8**0.5, rel=0.25)


def test_a_bootstrap_interval_is_the_percentile_interval() -> None:
    draw = np.random.default_rng(1)
    speeds = draw.normal(20, 2, 60).clip(5)
    questions = [Question(n, "c", "g", ("?",), source="s") for n in range(60)]
    trials = [simple("none", n, [1, 2], 2 / speed) for n, speed in enumerate(speeds)]
    figures = summarise(journal_of(*trials), questions, ("none",), sample=False)["methods"]["none"]["overall"]
    error = speeds.std() / np.sqrt(60)
    low, high = figures["tokens_per_second_ci"]
    assert low == pytest.approx(speeds.mean() - 1.96 * error, abs=0.25 * error)
    assert high == pytest.approx(speeds.mean() + 1.96 * error, abs=0.25 * error)


@pytest.mark.parametrize(
    ("answer", "reference", "right"),
    [
        ("So the answer is 42.", "42", True),
        ("I have 42, no: 41", "42", False),
        ("It is \\boxed{42}, that is 6 times 7", "42", True),
        ("1,234.50 euros", "1234.5", True),
        ("minus -3", "#### -3", True),
        ("none at all", "42", False),
        ("答案是18", "She sold 9 * 2 = <<9*2=18>>18.\n#### 18", True),
        ("42", "forty-two", None),
        ("42", None, None),
        ("42", "see \\boxed{42} above", True),
    ],
)
def test_answers_are_right_by_their_last_number(answer: str, reference: str | None, right: bool | None) -> None:
    assert is_right(answer, reference) is right


@given(st.text())
def test_any_text_can_be_scored(text: str) -> None:
    answered_number(text)
    reference_number(text)


def test_scores_count_the_questions_that_have_a_reference() -> None:
    questions = [*QUESTIONS, Question(2, "c", "g", ("?",), source="s")]
    texts = ["42", "7", "42"]
    trials = [simple("none", row, [1, 2], 1.0, texts=[text]) for row, text in enumerate(texts)]
    results = summarise(journal_of(*trials), questions, ("none",), sample=False, score=True)
    assert results["methods"]["none"]["overall"]["score"] == {"right": 1, "asked": 2}
