"""What each part of ``racer`` is worth: tokens a step without it, on the same texts, with intervals over questions.

    python benchmarks/ablation.py --questions spec_bench/question.jsonl --output small.json
    python benchmarks/ablation.py --questions spec_bench/question.jsonl --model other.gguf --output other.json
    python benchmarks/ablation.py --table small.json --table other.json          # both again, and pooled

All drafters decode a question together (``shared_text.py``), greedily, each at its own pace and with a state of its
own that it keeps from question to question. So all decode the same text, and differ in nothing but their guesses. Only
the first turn is asked.

A feature that is left out leaves the estimator with a cell that it was not fitted for, which may cost more than the
feature brings. So that cell is given the mean vector of the feature's cells, as often as the whole drafter uses each.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import click
import numpy as np
from acceptance import MEAN_FEATURES, TABLE_FEATURES
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table
from shared_text import decode

import racer
from racer.bench.questions import Question, draw, load_questions
from racer.loading import models
from racer.loading.loaded_model import LoadedModel
from racer.step.draft_tree import DraftTree
from racer.step.view import StepView
from racer.strategies.context.estimator import Estimator
from racer.strategies.context.features import ALIGNED, CELLS, FAR, FIRST_CELL, LAST_SEEN, MATCH, MISSING, NEAR, VOTES
from racer.strategies.context.fitted import fitted_estimator

WHOLE = "racer"
PARTS: dict[str, Sequence[int]] = {
    "recent steps": [NEAR, FAR, ALIGNED],
    "near": [NEAR],
    "far": [FAR],
    "aligned": [ALIGNED],
    "match votes": [VOTES],
    "last seen": [LAST_SEEN],
    **{f"running mean {kind}": [feature] for kind, feature in enumerate(MEAN_FEATURES)},
}
YARDSTICKS: dict[str, Sequence[int]] = {
    "matches": [MATCH, VOTES],
    "running means": MEAN_FEATURES,
    "top-k table": TABLE_FEATURES,
}
WARM = 4
"""Built-in questions on which the use of cells is counted."""
RESAMPLES = 10_000


class Counting(racer.Racer):
    """Counts the cells of all drafted nodes in ``used [CELLS]``."""

    def __init__(self) -> None:
        super().__init__()
        self.used = np.zeros(CELLS)

    def draft(self, view: StepView, budget: int) -> DraftTree:
        tree = super().draft(view, budget)
        cells = self._open[view.requests[0].id].tree.cells[1 : tree.width]
        self.used += np.bincount(cells.ravel(), minlength=CELLS)
        return tree


def mean_estimator(used: NDArray[np.float64], silent: Sequence[int]) -> Estimator:
    """The fitted start, with the mean of each feature's vectors for what stands in its place."""
    estimator = Estimator.of(**fitted_estimator()._asdict())
    for feature in silent:
        part = slice(FIRST_CELL[feature], FIRST_CELL[feature + 1])
        estimator.vectors[MISSING[feature]] = np.average(estimator.vectors[part], axis=0, weights=used[part] + 1e-3)
    return estimator


def drafters(used: NDArray[np.float64], names: Sequence[str]) -> dict[str, racer.Racer]:
    """All that take part, by what is missing."""
    parts = {name: silent for name, silent in (PARTS | YARDSTICKS).items() if not names or name in names}
    made = {WHOLE: racer.Racer()}
    return made | {
        name: racer.Racer(silent=silent, estimator=mean_estimator(used, silent)) for name, silent in parts.items()
    }


@attrs.frozen
class Bench:
    """A model and how it decodes."""

    loaded: LoadedModel
    decoder: racer.Decoder
    budget: int
    new: int

    def run(self, question: Question, all_of: Sequence[racer.Racer]) -> tuple[int, list[int]]:
        """Tokens after the first one, and the steps that each drafter took for them."""
        ends = self.loaded.model.generation_config.eos_token_id
        stop = frozenset(ends if isinstance(ends, list) else [] if ends is None else [ends])
        prompt = self.loaded.encode([{"role": "user", "content": question.turns[0]}])["input_ids"]
        return decode(self.decoder, prompt, all_of, self.budget, self.new, stop)


def measure(
    bench: Bench, questions: Sequence[Question], names: Sequence[str], long: int, about: dict[str, Any], output: Path
) -> dict[str, Any]:
    """The steps of all drafters on all questions; written after each of them.

    :param long: questions after which the yardsticks, whose guesses differ most, are left out.
    """
    counting = Counting()
    for question in load_questions(["builtin"])[:WARM]:
        bench.run(question, [counting])
    made, found = drafters(counting.used, names), []
    for number, question in enumerate(track(questions, "questions", console=Console(stderr=True))):
        if number == long:
            made = {name: drafter for name, drafter in made.items() if name not in YARDSTICKS}
        tokens, steps = bench.run(question, list(made.values()))
        named = dict(zip(made, steps, strict=True))
        found.append({"id": question.question_id, "group": question.group, "tokens": tokens, "steps": named})
        output.write_text(json.dumps({**about, "questions": found}, indent=1), encoding="utf-8")
    return {**about, "questions": found}


def in_turns(questions: Sequence[Question]) -> list[Question]:
    """One of each group, then the next of each: so that a part of a run is a sample of all."""
    seen: dict[str, int] = {}
    order = [seen.setdefault(question.group, 0) for question in questions]
    for place, question in enumerate(questions):
        order[place], seen[question.group] = seen[question.group], seen[question.group] + 1
    return [questions[place] for place in np.argsort(order, kind="stable")]


def table_of(title: str, questions: Sequence[dict[str, Any]]) -> Table:
    """Tokens a step with and without each part, and what the part brings, with 95 % bootstrap intervals."""
    heads = "without", "questions", "tokens a step", "with it", "it brings", "95 %", "of the whole"
    table = Table(*heads, box=None, header_style="bold")
    table.title = f"{title}: {len(questions)} questions, {sum(one['tokens'] for one in questions)} tokens"
    for name in questions[0]["steps"]:
        units = np.array(
            [[one["tokens"], one["steps"][WHOLE], one["steps"][name]] for one in questions if name in one["steps"]]
        )
        chosen = np.random.default_rng(0).integers(len(units), size=(RESAMPLES, len(units)))
        tokens, whole, own = np.vstack([units.sum(0), units[chosen].sum(1)]).T
        gains = tokens / whole - tokens / own
        low, high = np.percentile(gains[1:], [2.5, 97.5])
        table.add_row(
            name,
            str(len(units)),
            f"{tokens[0] / own[0]:.3f}",
            f"{tokens[0] / whole[0]:.3f}",
            f"{gains[0]:+.3f}",
            f"{low:+.3f} to {high:+.3f}{'' if low <= 0 <= high else ' *'}",
            f"{gains[0] * whole[0] / tokens[0]:+.2%}",
        )
    return table


@click.command(help=__doc__)
@click.option("--questions", multiple=True, default=("builtin",), show_default=True)
@click.option("--limit", default=10, show_default=True, help="Questions of each group.")
@click.option("--seed", default=0, show_default=True, help="Which ones.")
@click.option("--model", help="A folder, a GGUF file or a hub id.  [default: the embedded model]")
@click.option("--dtype", type=click.Choice(list(models.DTYPES)), default="bf16", show_default=True)
@click.option("--budget", default=64, show_default=True, help="Nodes.")
@click.option("--max-new-tokens", "new", default=64, show_default=True)
@click.option("--without", "names", multiple=True, type=click.Choice([*PARTS, *YARDSTICKS]), help="[default: all]")
@click.option("--yardsticks", "long", default=24, show_default=True, help="Questions for these.")
@click.option("--output", default="ablation.json", type=click.Path(path_type=Path), show_default=True)
@click.option("--table", "tables", multiple=True, type=click.Path(path_type=Path, exists=True), help="Of earlier runs.")
def main(
    questions: tuple[str, ...],
    limit: int,
    seed: int,
    model: str | None,
    dtype: str,
    budget: int,
    new: int,
    names: tuple[str, ...],
    long: int,
    output: Path,
    tables: tuple[Path, ...],
) -> None:
    if tables:
        reports = [json.loads(path.read_text(encoding="utf-8")) for path in tables]
    else:
        loaded = models.load(model, dtype=dtype)
        decoder = racer.Decoder(loaded.model, racer.DecodeConfig(drafter=racer.Racer(), budget=budget))
        about = {"model": model or loaded.name, "dtype": dtype, "budget": budget, "new": new, "seed": seed}
        chosen = in_turns(draw(load_questions(questions), limit, seed))
        reports = [measure(Bench(loaded, decoder, budget, new), chosen, names, long, about, output)]
    console = Console(highlight=False, width=120)
    for report in reports:
        console.print(table_of(report["model"], report["questions"]))
    if len(reports) > 1:
        console.print(table_of("pooled", [one for report in reports for one in report["questions"]]))


if __name__ == "__main__":
    main()
