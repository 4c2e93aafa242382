"""From the journal to figures: means, medians and bootstrap confidence intervals, per method and group."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from racer.bench.answers import Answer, gather
from racer.bench.figures import Interval, bootstrap, by_depth, cost_curve, median, reliabilities, split
from racer.bench.methods import foreign
from racer.bench.questions import Question
from racer.bench.run.journal import Journal
from racer.bench.score import is_right
from racer.bench.trials import Measured, Trial
from racer.step.stats import of_drafted_steps


def summarise(
    journal: Journal, questions: Sequence[Question], methods: Sequence[str], *, sample: bool, score: bool = False
) -> dict[str, Any]:
    """The ``methods`` and ``failures`` of ``results.json``; ``docs/bench.md`` names every field.

    A question counts for a method if that method answered all its turns.

    :param sample: whether tokens were sampled: then transformers' own methods draw other noise than RACER's, and
        there is nothing to compare token by token.
    :param score: whether answers are compared with the questions' references.
    """
    answers = {method: gather(journal, questions, method) for method in methods}
    groups = list(dict.fromkeys(question.group for question in questions))
    figures = {}
    for method in methods:
        trials = [trial for trial in journal.trials.values() if trial.method == method]
        cells = {
            group: _Cell(
                method,
                {name: _of_group(found, questions, group) for name, found in answers.items()},
                [trial for trial in trials if group in (None, trial.group)],
                journal,
                questions,
                comparable=not (sample and foreign(method)),
                score=score,
            ).figures()
            for group in (None, *groups)
        }
        figures[method] = {
            "overall": cells.pop(None),
            "groups": cells,
            "cost_curve": cost_curve(_measured(trials)),
            "reliability": reliabilities(_measured(trials)),
        }
    return {"methods": figures, "failures": list(_failures(journal.trials.values(), questions))}


def _of_group(answers: dict[int, Answer], questions: Sequence[Question], group: str | None) -> dict[int, Answer]:
    return {row: answer for row, answer in answers.items() if group in (None, questions[row].group)}


def _measured(trials: Iterable[Trial]) -> list[Measured]:
    return [trial.measured for trial in trials if trial.measured is not None]


@attrs.frozen
class _Cell:
    """One method on one group, or on all."""

    method: str
    answers: dict[str, dict[int, Answer]]
    """Of all methods: method, question, answer."""
    trials: list[Trial]
    journal: Journal
    questions: Sequence[Question]
    comparable: bool
    """Whether its tokens can be compared with the plain ones."""
    score: bool

    def figures(self) -> dict[str, Any]:
        mine = self.answers[self.method]
        flat = [length for answer in mine.values() for length in answer.accept_lengths]
        steps, stepped = (sum(column) for column in zip(*map(_steps, mine.values()), strict=True)) if mine else (0, 0)
        speeds = {row: answer.tokens_per_second for row, answer in mine.items()}
        return {
            "questions": len(mine),
            "failures": sum(trial.error is not None for trial in self.trials),
            "new_tokens": sum(sum(answer.new_tokens) for answer in mine.values()),
            "steps": steps,
            "mean_accepted_tokens": stepped / steps if steps else None,
            "mean_accepted_tokens_ci": self._interval({row: _steps(answer)[::-1] for row, answer in mine.items()}),
            "tokens_per_second": statistics.fmean(speeds.values()) if speeds else None,
            "tokens_per_second_median": median([*speeds.values()]),
            "tokens_per_second_ci": self._interval({row: (speed, 1.0) for row, speed in speeds.items()}),
            **self._speedup("none"),
            **self._speedup("hf"),
            **self._identity(),
            **self._bill(),
            "acceptance_by_depth": by_depth(flat),
            "score": self._score(mine) if self.score else None,
        }

    def _speedup(self, baseline: str) -> dict[str, Any]:
        """Spec-Bench's: the mean of tokens/s over questions, by the baseline's, on the questions both answered."""
        mine, theirs = self.answers[self.method], self.answers.get(baseline, {})
        pairs = {
            row: (answer.tokens_per_second, theirs[row].tokens_per_second)
            for row, answer in mine.items()
            if row in theirs
        }
        ours, base = (sum(column) for column in zip(*pairs.values(), strict=True)) if pairs else (0.0, 0.0)
        name = f"speedup_vs_{baseline}"
        return {
            name: ours / base if base else None,
            f"{name}_ci": self._interval(pairs),
            f"{name}_median": median([own / other for own, other in pairs.values()]),
        }

    def _interval(self, parts: dict[int, tuple[float, float]]) -> Interval:
        """Of the ratio of two sums over questions. A batch has one clock, so its questions are drawn together."""
        units: dict[int, NDArray[np.float64]] = {}
        for row, part in parts.items():
            number = self.answers[self.method][row].batch
            units[number] = units.get(number, np.zeros(2)) + np.array(part)
        return bootstrap(np.array([*units.values()]))

    def _identity(self) -> dict[str, Any]:
        """How many answers are the plain ones, token by token."""
        mine, plain = self.answers[self.method], self.answers.get("none", {})
        rows = [row for row in mine if row in plain and self.comparable]
        same = [mine[row].tokens == plain[row].tokens for row in rows]
        parted = [gap for trial in self.trials for gap in self.journal.gaps.get(trial.key, [])]
        gaps = [gap for gap in parted if gap is not None]
        return {
            "identical_rate": statistics.fmean(same) if same else None,
            "divergences": same.count(False) if same else None,
            "divergence_gap_median": median(gaps),
            "divergence_gap_max": max(gaps, default=None),
            "divergence_gap_unknown": len(parted) - len(gaps),
        }

    def _bill(self) -> dict[str, Any]:
        whole = [trial for trial in self.trials if not set(trial.rows).isdisjoint(self.answers[self.method])]
        calls = _measured(whole)
        steps = sum(len(call.nodes) for call in calls)
        drafted, kept = (sum(getattr(call, name) for call in calls) for name in ("drafted", "kept"))
        firsts = [call.first_token_seconds for call in calls if call.first_token_seconds is not None]
        peaks = [trial.peak_bytes for trial in whole if trial.peak_bytes is not None]
        lengths = [length for call in calls for length in of_drafted_steps(call.accept_lengths, call.nodes)]
        return {
            "mean_accepted_tokens_drafted": statistics.fmean(lengths) if lengths else None,
            "nodes_per_step": sum(sum(call.nodes) for call in calls) / steps if steps else None,
            "drafted_nodes": drafted,
            "wasted_nodes": drafted - kept,
            "first_token_seconds": median(firsts),
            "peak_memory_mib": max(peaks) / 2**20 if peaks else None,
            "milliseconds": split([call for call in calls if call.milliseconds is not None]),
        }

    def _score(self, mine: dict[int, Answer]) -> dict[str, int] | None:
        right = [is_right(answer.turns[-1], self.questions[row].reference) for row, answer in mine.items()]
        asked = [verdict for verdict in right if verdict is not None]
        return {"right": sum(asked), "asked": len(asked)} if asked else None


def _steps(answer: Answer) -> tuple[int, int]:
    """How many, and the tokens that they gave."""
    return sum(answer.steps), answer.stepped_tokens


def _failures(trials: Iterable[Trial], questions: Sequence[Question]) -> Iterable[dict[str, Any]]:
    for trial in trials:
        if (told := trial.error or trial.complaint) is not None:
            ids = [questions[row].question_id for row in trial.rows]
            shown = ids[0] if len(ids) == 1 else ids
            yield {
                "method": trial.method, "group": trial.group, "question_id": shown, "turn": trial.turn,
                "error": told, "answered": trial.error is None,
            }  # fmt: skip
