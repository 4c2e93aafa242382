"""What grouped attention and packed weights make of one forward pass over a tree, on a CPU.

    python benchmarks/forward_ways.py
    python benchmarks/forward_ways.py --shape 1b --rows 1 --context 2000 --nodes 1 --nodes 16 --output ways.json

Three ways through the same model, in turns, so that a machine that gets slower does so for all of them: transformers'
``sdpa``, grouped attention, and packed weights besides. Random tokens; times are medians in milliseconds, ratios are
against the way before. Also told is whether packing changed a single bit of the logits.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterable
from itertools import product
from pathlib import Path
from typing import Any

import attrs
import click
import torch
from random_models import SHAPES, random_model
from rich.console import Console
from rich.progress import track
from rich.table import Table

import racer
from racer.core.model_runner import ModelRunner
from racer.core.packed_weights import pack
from racer.core.support import probe
from racer.loading import models

WAYS = ("sdpa", "grouped", "packed")


def runners(model: Any) -> dict[str, ModelRunner]:
    plan = probe(model).plan
    if plan is None or not plan.groups:
        raise click.ClickException("grouped attention does not suit this model or device, so there is nothing to tell")
    return {
        "sdpa": ModelRunner(model, attrs.evolve(plan, groups=False)),
        "grouped": ModelRunner(model, plan),
        "packed": ModelRunner(model, plan, pack(model)),
    }


def a_tree(rows: int, nodes: int, vocab_size: int) -> racer.DraftTree:
    """A chain of five nodes, and branches on it."""
    places = torch.arange(nodes)
    parent = torch.where(places <= 4, places - 1, places % 5).expand(rows, -1)
    return racer.DraftTree(torch.randint(vocab_size, (rows, nodes)), parent, torch.full((rows,), nodes))


@torch.no_grad()
def measure(model: Any, rows: int, context: int, sizes: Iterable[int], repeats: int) -> list[dict[str, Any]]:
    ways, vocab_size = runners(model), model.config.vocab_size
    cache = ways["sdpa"].open([0] * rows, context + max(sizes))
    list(ways["sdpa"].prefill(torch.randint(vocab_size, (rows, context)), cache, 512, keep=1))
    found = []
    for nodes in sizes:
        tree, spent, logits = a_tree(rows, nodes, vocab_size), {way: [] for way in WAYS}, {}
        for turn, (way, runner) in product(range(repeats + 1), ways.items()):
            start = time.perf_counter()
            logits[way] = runner.forward(tree, cache, 10**6)
            if turn:  # the first one warms up
                spent[way].append((time.perf_counter() - start) * 1e3)
        times = {way: statistics.median(spans) for way, spans in spent.items()}
        same = torch.equal(logits["grouped"], logits["packed"])
        found.append({"rows": rows, "context": context, "nodes": nodes, "milliseconds": times, "same bits": same})
    return found


@click.command(help=__doc__)
@click.option("--shape", type=click.Choice(["embedded", *SHAPES]), default="embedded", show_default=True)
@click.option("--dtype", type=click.Choice(["bf16", "fp32"]), default="bf16", show_default=True)
@click.option("--rows", multiple=True, type=int, default=(1, 4, 16), show_default=True, help="Of the batch.")
@click.option("--context", multiple=True, type=int, default=(300, 1500), show_default=True, help="Tokens before.")
@click.option("--nodes", multiple=True, type=int, default=(1, 2, 4, 8, 16, 24, 64), show_default=True)
@click.option(
    "--most", default=64, show_default=True, help="Leave out what has more nodes, those of all rows together."
)
@click.option("--repeats", default=12, show_default=True)
@click.option("--output", type=click.Path(path_type=Path), help="Write the figures as JSON.")
def main(
    shape: str,
    dtype: str,
    rows: tuple[int, ...],
    context: tuple[int, ...],
    nodes: tuple[int, ...],
    most: int,
    repeats: int,
    output: Path | None,
) -> None:
    torch.manual_seed(0)
    kind = getattr(torch, models.DTYPES[dtype])
    if shape == "embedded":
        model = models.load(None, dtype=dtype, device="cpu").model
    else:
        model = random_model(shape, torch.device("cpu"), kind)
    cases = [(batch, past) for batch, past in product(rows, context) if batch == 1 or past == min(context)]
    figures = []
    for batch, past in track(cases, "contexts", console=Console(stderr=True)):
        figures += measure(model, batch, past, [size for size in nodes if size * batch <= most], repeats)
    table = Table("rows", "context", "nodes", *WAYS, "grouped", "packed", "same bits", box=None, header_style="bold")
    for figure in figures:
        plain, grouped, packed = (figure["milliseconds"][way] for way in WAYS)
        cells = [
            f"{plain:.1f}",
            f"{grouped:.1f}",
            f"{packed:.1f}",
            f"{grouped / plain:.2f}x",
            f"{packed / grouped:.2f}x",
        ]
        sizes = [str(figure[name]) for name in ("rows", "context", "nodes")]
        table.add_row(*sizes, *cells, "yes" if figure["same bits"] else "no")
    Console(highlight=False).print(table)
    if output:
        report = {"shape": shape, "dtype": dtype, "threads": torch.get_num_threads(), "forward passes": figures}
        output.write_text(json.dumps(report, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
