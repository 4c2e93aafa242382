"""What each part of the drafter ``racer`` brings: mean accepted tokens with and without it, in real decoding.

    python benchmarks/ablation.py                                            # built-in questions, about 10 minutes
    python benchmarks/ablation.py --questions spec_bench/question.jsonl --limit 2 --budget 16

First turns, greedy, a fixed budget, state kept from question to question; each variant starts with empty tables. Which
tokens are accepted does not depend on how busy the machine is.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.progress import track
from rich.table import Table

import racer
from racer import models
from racer.bench.questions import Question, draw, load_questions
from racer.loaded import LoadedModel
from racer.strategies.context.blends import BLENDS
from racer.strategies.context.cues import LONGEST
from racer.strategies.context.start import unknowing_odds
from racer.strategies.context.voices import ALIGNED, BLENDED, LATEST, MATCH, NEAR

CUES = range(LATEST, LATEST + LONGEST)
AVERAGES = range(BLENDED, BLENDED + BLENDS)
VARIANTS: dict[str, Callable[[], racer.Racer]] = {
    "everything": racer.Racer,
    "no cues": lambda: racer.Racer(silent=CUES),
    "cues of the last token only": lambda: racer.Racer(silent=CUES[1:]),
    "no averages": lambda: racer.Racer(silent=AVERAGES),
    "no matches (retrieval)": lambda: racer.Racer(silent=[MATCH]),
    "no hints from the latest steps": lambda: racer.Racer(silent=[NEAR, ALIGNED]),
    "matches only": lambda: racer.Racer(silent=[*CUES, *AVERAGES, NEAR, ALIGNED]),
    "odds not fitted": lambda: racer.Racer(odds=unknowing_odds()),
}
"""By name: how the drafter is made."""


def measure(
    loaded: LoadedModel, drafter: racer.Racer, questions: Sequence[Question], budget: int, new: int
) -> dict[str, list[int]]:
    """Tokens of every step, by group."""
    decoder = racer.Decoder(loaded.model, racer.DecodeConfig(drafter=drafter, budget=budget))
    lengths = defaultdict(list)
    for question in questions:
        inputs = loaded.encode([{"role": "user", "content": question.turns[0]}])
        output = decoder.generate(
            **inputs,
            max_new_tokens=new,
            do_sample=False,
            pad_token_id=loaded.pad_token_id,
            return_dict_in_generate=True,
        )
        lengths[question.group] += output.racer_stats.accept_lengths[0]
    return dict(lengths)


@click.command(help=__doc__)
@click.option("--questions", multiple=True, default=("builtin",), show_default=True)
@click.option("--limit", default=5, show_default=True, help="Questions of each group.")
@click.option("--seed", default=0, show_default=True, help="Which ones.")
@click.option("--budget", default=64, show_default=True, help="Nodes.")
@click.option("--max-new-tokens", "new", default=128, show_default=True)
@click.option("--output", type=click.Path(path_type=Path), help="Write the figures as JSON.")
def main(questions: tuple[str, ...], limit: int, seed: int, budget: int, new: int, output: Path | None) -> None:
    loaded, chosen, figures = models.load(None), draw(load_questions(questions), limit, seed), {}
    for name, make in track(VARIANTS.items(), "variants", console=Console(stderr=True)):
        lengths = measure(loaded, make(), chosen, budget, new)
        every = [length for part in lengths.values() for length in part]
        groups = {group: sum(part) / len(part) for group, part in lengths.items()}
        figures[name] = {"mean accepted tokens": sum(every) / len(every), "by group": groups}
    table = Table("drafter", "mean accepted tokens", "of everything", box=None, header_style="bold")
    whole = figures["everything"]["mean accepted tokens"]
    for name, part in figures.items():
        table.add_row(name, f"{part['mean accepted tokens']:.2f}", f"{part['mean accepted tokens'] / whole:.0%}")
    Console(highlight=False).print(table)
    if output:
        report = {"questions": len(chosen), "budget": budget, "new tokens": new, "drafters": figures}
        output.write_text(json.dumps(report, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
