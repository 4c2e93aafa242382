"""What scoring a prompt takes: the first token of transformers, of plain decoding, and of a drafter.

    python benchmarks/prefill.py
    python benchmarks/prefill.py --tokens 8000 --drafter racer-paper --repeats 3

Prompts are made of the package's questions. Methods take turns; medians.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table

import racer
from racer.bench.meters import now
from racer.bench.questions import load_questions
from racer.loading import models


def milliseconds(methods: dict[str, Callable[..., Any]], prompt: list[int], repeats: int) -> dict[str, float]:
    """Medians over ``repeats`` calls of each method for one new token; a call before them warms up."""
    ids = torch.tensor([prompt])
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "do_sample": False}
    spent: dict[str, list[float]] = {name: [] for name in methods}
    for turn in range(repeats + 1):
        for name, generate in methods.items():
            start = now(ids.device)
            generate(**inputs, max_new_tokens=1)
            if turn:
                spent[name].append((now(ids.device) - start) * 1e3)
    return {name: statistics.median(times) for name, times in spent.items()}


@click.command(help=__doc__.replace("\n    python", "\n\n\b\n    python", 1))
@click.option("--tokens", "sizes", multiple=True, default=(500, 2000, 8000), show_default=True, type=click.IntRange(1))
@click.option("--drafter", "drafters", multiple=True, default=("racer",), show_default=True)
@click.option("--repeats", default=5, show_default=True, type=click.IntRange(1))
@click.option("--output", type=click.Path(path_type=Path), help="Write the figures as JSON.")
def main(sizes: tuple[int, ...], drafters: tuple[str, ...], repeats: int, output: Path | None) -> None:
    loaded = models.load(None)
    text = loaded.tokenizer("\n\n".join(question.turns[0] for question in load_questions(["builtin"])))["input_ids"]
    methods: dict[str, Callable[..., Any]] = {"hf": loaded.model.generate}
    for drafter in ("none", *drafters):
        methods[drafter] = racer.Decoder(loaded.model, racer.DecodeConfig(drafter=drafter)).generate
    table = Table("tokens", *methods, box=None, header_style="bold")
    figures = {}
    for size in sizes:
        figures[size] = found = milliseconds(methods, list(islice(cycle(text), size)), repeats)
        table.add_row(f"{size:,}", *(f"{spent:.0f} ms ({spent / found['hf']:.2f}x)" for spent in found.values()))
    Console(highlight=False).print(table)
    if output:
        output.write_text(json.dumps({"milliseconds": figures}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
