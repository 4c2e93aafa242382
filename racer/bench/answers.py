"""Whole answers put together from a run's trials, and Spec-Bench's answer files made of them."""

from __future__ import annotations

import re
import uuid
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import attrs

from racer.bench.converter import line
from racer.bench.questions import Question
from racer.bench.run.journal import Journal
from racer.bench.trials import Trial
from racer.files import write_whole


@attrs.frozen(kw_only=True)
class Answer:
    """One method's answer to one question, a list entry a turn."""

    turns: list[str]
    tokens: list[list[int]]
    new_tokens: list[int]
    steps: list[int]
    seconds: list[float]
    """A row's share of its batch's time."""
    accept_lengths: list[int]
    """Of all turns in one list, as Spec-Bench has it."""
    stepped_tokens: int
    """Those that the steps gave, of all turns."""
    batch: int
    """Number of the batch that it was answered in."""
    time: float

    @property
    def tokens_per_second(self) -> float:
        return sum(self.new_tokens) / sum(self.seconds)


@attrs.frozen(kw_only=True)
class Choice:
    """Spec-Bench's name for an answer; a list entry a turn, but for ``accept_lengths``."""

    index: int = 0
    turns: list[str]
    decoding_steps: list[int]
    new_tokens: list[int]
    wall_time: list[float]
    accept_lengths: list[int]


@attrs.frozen(kw_only=True)
class AnswerRecord:
    """One line of an answer file."""

    question_id: int | str
    category: str
    answer_id: str
    model_id: str
    choices: list[Choice]
    tstamp: float


def gather(journal: Journal, questions: Sequence[Question], method: str) -> dict[int, Answer]:
    """The questions that ``method`` answered whole: index, answer."""
    trials: dict[int, list[tuple[Trial, int]]] = defaultdict(list)
    for trial in sorted(journal.trials.values(), key=lambda trial: (trial.number, trial.turn)):
        if trial.method == method and trial.measured is not None:
            for place, row in enumerate(trial.rows):
                trials[row].append((trial, place))
    whole = {row: turns for row, turns in trials.items() if len(turns) == len(questions[row].turns)}
    return {row: _answer(whole[row]) for row in sorted(whole)}


def _answer(turns: list[tuple[Trial, int]]) -> Answer:
    calls = [(trial.measured, row) for trial, row in turns if trial.measured is not None]
    lengths = [call.accept_lengths[row] for call, row in calls]
    return Answer(
        turns=[trial.texts[row] for trial, row in turns],
        tokens=[call.tokens[row] for call, row in calls],
        new_tokens=[len(call.tokens[row]) for call, row in calls],
        steps=[len(row) if call.steps is None else call.steps for row, (call, _) in zip(lengths, calls, strict=True)],
        seconds=[call.seconds / len(call.tokens) for call, _ in calls],
        accept_lengths=[length for row in lengths for length in row],
        stepped_tokens=sum(
            sum(lengths[turn]) if call.steps is None else len(call.tokens[row]) - 1
            for turn, (call, row) in enumerate(calls)
        ),
        batch=turns[-1][0].number,
        time=turns[-1][0].time,
    )


def file_name(method: str) -> str:
    """A method's name as a file's."""
    return re.sub(r"[^\w.@-]", "_", method) + ".jsonl"


def write_answers(folder: Path, journal: Journal, questions: Sequence[Question], methods: Sequence[str]) -> None:
    """One file per method, as Spec-Bench's speed script reads them. ``accept_lengths`` include the bonus token."""
    folder.mkdir(parents=True, exist_ok=True)
    for method in methods:
        whole = gather(journal, questions, method)
        lines = [line(_record(questions[row], method, answer)) for row, answer in whole.items()]
        write_whole(folder / file_name(method), "".join(lines))


def _record(question: Question, method: str, answer: Answer) -> AnswerRecord:
    key = f"{question.source} {question.question_id} {method}"
    choice = Choice(
        turns=answer.turns,
        decoding_steps=answer.steps,
        new_tokens=answer.new_tokens,
        wall_time=answer.seconds,
        accept_lengths=answer.accept_lengths,
    )
    return AnswerRecord(
        question_id=question.question_id,
        category=question.category,
        answer_id=uuid.uuid5(uuid.NAMESPACE_OID, key).hex,
        model_id=method,
        choices=[choice],
        tstamp=answer.time,
    )
