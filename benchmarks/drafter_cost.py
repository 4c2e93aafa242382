"""What the drafter ``racer`` itself costs a step, while a real model decodes, by the length of the history it searches.

    python benchmarks/drafter_cost.py                                  # 1k to 1M tokens, about 3 minutes on 2 cores
    python benchmarks/drafter_cost.py --history 100000 --budget 24 --questions 8

The times are of ``Racer.draft`` and ``Racer.observe`` whole, between the forward passes of decoding, with the caches as
these leave them; finding the best tokens of each node is the executor's part and not in them. The history is filled
with made-up text: words of Zipf's frequency in phrases that recur.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import racer
from racer.bench.questions import load_questions
from racer.loading import models
from racer.loading.loaded_model import LoadedModel
from racer.step.draft_tree import DraftTree
from racer.step.verdict import Verdict
from racer.step.view import StepView
from racer.strategies.context import history
from racer.strategies.context.hashing import NO_TOKEN


class Timed(racer.Racer):
    """Notes the milliseconds of every call."""

    def __init__(self) -> None:
        super().__init__()
        self.draft_ms: list[float] = []
        self.observe_ms: list[float] = []

    def draft(self, view: StepView, budget: int) -> DraftTree:
        started = time.perf_counter()
        tree = super().draft(view, budget)
        self.draft_ms.append((time.perf_counter() - started) * 1e3)
        return tree

    def observe(self, view: StepView, tree: DraftTree, verdict: Verdict) -> None:
        started = time.perf_counter()
        super().observe(view, tree, verdict)
        self.observe_ms.append((time.perf_counter() - started) * 1e3)


def made_up(tokens: int, vocab_size: int) -> Iterator[NDArray[np.int32]]:
    """Texts of 500 tokens, ``tokens`` in all: phrases of 2 to 12 words, of which some are common and some are not."""
    noise = np.random.default_rng(0)
    words = noise.permutation(vocab_size)
    phrases = [words[np.minimum(noise.zipf(1.2, noise.integers(2, 13)), vocab_size) - 1] for _ in range(5000)]
    for start in range(0, tokens, 500):
        said = np.concatenate([phrases[min(noise.zipf(1.3), 5000) - 1] for _ in range(250)])
        yield said[: min(500, tokens - start)].astype(np.int32)


def measure(loaded: LoadedModel, drafter: Timed, budget: int, questions: int, new: int) -> dict[str, float]:
    """Decode some questions; medians over all steps."""
    decoder = racer.Decoder(loaded.model, racer.DecodeConfig(drafter=drafter, budget=budget))
    drafts, observes = [], []
    for question in list(load_questions(["builtin"]))[:: 80 // questions][:questions]:
        inputs = loaded.encode([{"role": "user", "content": question.turns[0]}])
        drafter.draft_ms.clear()
        decoder.generate(**inputs, max_new_tokens=new, do_sample=False, pad_token_id=loaded.pad_token_id)
        steps = len(drafter.draft_ms)
        drafts += drafter.draft_ms[1:]
        observes += drafter.observe_ms[1 - steps :]  # what came before are pieces of prompt
    both = [draft + observe for draft, observe in zip(drafts, observes, strict=True)]
    names = ("draft", "observe", "both")
    return {name: statistics.median(part) for name, part in zip(names, (drafts, observes, both), strict=True)}


@click.command(help=__doc__)
@click.option("--history", "lengths", multiple=True, type=int, default=(1_000, 10_000, 100_000, 1_000_000))
@click.option("--budget", default=64, show_default=True)
@click.option("--questions", default=8, show_default=True)
@click.option("--max-new-tokens", "new", default=96, show_default=True)
@click.option("--output", type=click.Path(path_type=Path), help="Write the figures as JSON.")
def main(lengths: tuple[int, ...], budget: int, questions: int, new: int, output: Path | None) -> None:
    loaded, figures = models.load(None), {}
    table = Table("history", "draft ms", "observe ms", "both ms", box=None, header_style="bold")
    for length in (lengths[0], *lengths):  # the first one twice: once to warm up
        drafter = Timed()
        for text in made_up(length, loaded.model.config.vocab_size):
            history.append(drafter.memory.past, np.append(text, NO_TOKEN).astype(np.int32), history.GRAM)
        figures[length] = measure(loaded, drafter, budget, questions, new)
    for length, part in figures.items():
        table.add_row(f"{length:,}", *(f"{part[name]:.3f}" for name in ("draft", "observe", "both")))
    Console(highlight=False).print(table)
    if output:
        output.write_text(json.dumps({"budget": budget, "milliseconds": figures}, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
