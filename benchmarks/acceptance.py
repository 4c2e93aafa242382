"""Mean accepted tokens of drafters, and of ``racer`` without each of its parts, in real decoding.

    python benchmarks/acceptance.py                                  # the ablation, on the built-in questions
    python benchmarks/acceptance.py --questions spec_bench/question.jsonl --cold --drafter racer-paper --drafter racer
    python benchmarks/acceptance.py --model FILE.gguf --start fitted.npz --drafter racer-paper --drafter racer

What is accepted does not depend on how busy the machine is, so no plain decoding is measured beside it; for speed there
is ``racer bench``. All turns, each after the drafter's own answers; state is kept from prompt to prompt, or not.
"""

from __future__ import annotations

import copy
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import track
from rich.table import Table

import racer
from racer.bench.adapters.racer_decoder import RacerAdapter
from racer.bench.questions import Question, draw, load_questions
from racer.bench.settings import Settings
from racer.discovery import plugins
from racer.errors import UnknownStrategy
from racer.loading import models
from racer.loading.loaded_model import LoadedModel
from racer.strategies.context.features import ALIGNED, FAR, MATCH, MEAN, NEAR, TOP_K
from racer.strategies.context.fitted import read_fitted, unfitted_estimator
from racer.strategies.context.running_means import MEANS
from racer.strategies.context.top_k_table import MAX_CONTEXT

TABLE_FEATURES = range(TOP_K, TOP_K + MAX_CONTEXT)
MEAN_FEATURES = range(MEAN, MEAN + MEANS)
PARTS: dict[str, Callable[[], racer.Racer]] = {
    "racer": racer.Racer,
    "no top-k table": lambda: racer.Racer(silent=TABLE_FEATURES),
    "top-k of the last token only": lambda: racer.Racer(silent=TABLE_FEATURES[1:]),
    "no running means": lambda: racer.Racer(silent=MEAN_FEATURES),
    "no matches": lambda: racer.Racer(silent=[MATCH]),
    "no recent steps": lambda: racer.Racer(silent=[NEAR, FAR, ALIGNED]),
    "matches only": lambda: racer.Racer(silent=[*TABLE_FEATURES, *MEAN_FEATURES, NEAR, FAR, ALIGNED]),
    "estimator not fitted": lambda: racer.Racer(estimator=unfitted_estimator()),
}
"""How ``racer`` is made without a part, by what is missing."""


def measure(
    loaded: LoadedModel,
    drafter: str,
    questions: Sequence[Question],
    budget: int,
    settings: Settings,
    start: Path | None = None,
) -> dict[str, list[int]]:
    """New tokens of every step, by group.

    :param start: where the learning of ``racer`` starts, if not where the package's does.
    """

    made: Any = PARTS[drafter]() if drafter in PARTS else drafter
    if drafter == "racer" and start is not None:
        made = racer.Racer(estimator=read_fitted(start))

    def adapter() -> RacerAdapter:
        return RacerAdapter(
            loaded, settings.arguments(), racer.DecodeConfig(drafter=copy.deepcopy(made), budget=budget)
        )

    kept, lengths = adapter(), defaultdict(list)
    for number, question in enumerate(questions):
        talk: list[dict[str, str]] = []
        for turn in question.turns:
            talk.append({"role": "user", "content": turn})
            who = adapter() if settings.cold else kept
            measured = who.answer(loaded.encode(talk), settings.max_new_tokens, seed=number)
            lengths[question.group] += measured.accept_lengths[0]
            answer = loaded.tokenizer.decode(measured.tokens[0], skip_special_tokens=True)
            talk.append({"role": "assistant", "content": answer})
    return dict(lengths)


@click.command(help=__doc__)
@click.option("--model", help="A folder or a .gguf file.  [default: the embedded one]")
@click.option("--start", type=click.Path(exists=True, path_type=Path), help="Of `racer`, as fit_start.py writes it.")
@click.option("--questions", multiple=True, default=("builtin",), show_default=True)
@click.option("--limit", default=2, show_default=True, help="Questions of each group.")
@click.option("--seed", default=0, show_default=True, help="Which ones.")
@click.option("--drafter", "drafters", multiple=True, default=tuple(PARTS), help="By name.  [default: the ablation]")
@click.option("--budget", default=64, show_default=True, help="Nodes.")
@click.option("--max-new-tokens", "new", default=128, show_default=True)
@click.option("--temperature", default=0.0, show_default=True)
@click.option("--top-p", default=1.0, show_default=True)
@click.option("--cold", is_flag=True, help="Fresh state for every prompt.")
@click.option("--output", type=click.Path(path_type=Path), help="Write the figures as JSON.")
def main(
    model: str | None,
    start: Path | None,
    questions: tuple[str, ...],
    limit: int,
    seed: int,
    drafters: tuple[str, ...],
    budget: int,
    new: int,
    temperature: float,
    top_p: float,
    cold: bool,
    output: Path | None,
) -> None:
    for name in drafters:
        if name not in PARTS:
            try:
                plugins.resolve("drafter", name)
            except UnknownStrategy as error:
                raise click.BadParameter(
                    f"{error}; and {', '.join(list(PARTS)[1:])}", param_hint="--drafter"
                ) from error
    settings = Settings(max_new_tokens=new, temperature=temperature, top_p=top_p, cold=cold)
    loaded, chosen, figures = models.load(model), draw(load_questions(questions), limit, seed), {}
    for name in track(drafters, "drafters", console=Console(stderr=True)):
        lengths = measure(loaded, name, chosen, budget, settings, start)
        every = [length for part in lengths.values() for length in part]
        groups = {group: sum(part) / len(part) for group, part in lengths.items()}
        figures[name] = {"mean accepted tokens": sum(every) / len(every), "steps": len(every), "by group": groups}
    table = Table("drafter", "mean accepted tokens", "of the first", box=None, header_style="bold")
    first = figures[drafters[0]]["mean accepted tokens"]
    for name, part in figures.items():
        table.add_row(name, f"{part['mean accepted tokens']:.3f}", f"{part['mean accepted tokens'] / first:.3f}x")
    Console(highlight=False).print(table)
    if output:
        report = {"model": loaded.name, "questions": len(chosen), "budget": budget, "cold": cold, "drafters": figures}
        output.write_text(json.dumps(report, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
