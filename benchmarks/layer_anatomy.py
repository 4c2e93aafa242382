"""What a step's layers spend on each kind of operation, and how fast their products read the weights.

    python benchmarks/layer_anatomy.py                                           # the embedded model, its file's bits
    python benchmarks/layer_anatomy.py --model FILE.gguf --nodes 1 --nodes 24 --output layers.json
    python benchmarks/layer_anatomy.py --dtype bf16

Layers run from recordings of themselves (racer/core/recording.py): lists of machine code. Here each entry of the lists
of all layers is run by itself, layer after layer, so that weights come from where they come from in a step; a kind's
time is the sum of its entries' medians. What lies between the layers (embedding, the last layer over the vocabulary,
masks, Python) is the difference to the whole forward pass. The floor is all layers' weights at the bandwidth that a sum
over 512 MiB has with all cores.
"""

from __future__ import annotations

import ctypes
import json
import statistics
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import click
import torch
from rates import bytes_per_second
from rich.console import Console
from rich.table import Table

import racer
from racer.core import stand_in
from racer.core.layer_program import Program
from racer.core.layer_programs import LayerPrograms
from racer.hookspecs import hookimpl
from racer.loading import models

KINDS = {"dense": "linear", "packed": "linear", "attend": "attention", "norm": "norms", "rotate": "rotary"}
KINDS |= {"store": "cache", "gate": "gates", "add": "sums"}
TOKENS = 48
ROUNDS = 12


def programs_of(loaded: Any, nodes: int) -> tuple[list[Program], float]:
    """A call's recorded layers, and the milliseconds of its forward passes over ``nodes`` nodes, in the median."""
    kept: list[LayerPrograms] = []
    original = stand_in.LayerPrograms

    def noted() -> LayerPrograms:
        kept.append(original())
        return kept[-1]

    spent: list[float] = []

    class Timer:
        """Notes what steps of full size took."""

        @hookimpl
        def racer_step(self, stats: Any) -> None:
            if stats.nodes == nodes:
                spent.append(stats.milliseconds.get("forward", 0.0))

    stand_in.LayerPrograms = noted  # type: ignore[misc]
    try:
        ids = loaded.encode([{"role": "user", "content": "Write a story about a fox and a river."}])["input_ids"]
        drafter = "none" if nodes == 1 else "recycling"
        config = racer.DecodeConfig(drafter=drafter, budget=nodes, plugins=(Timer(),))
        for _ in range(2):
            racer.generate(loaded.model, ids, config=config, max_new_tokens=TOKENS, do_sample=False)
    finally:
        stand_in.LayerPrograms = original  # type: ignore[misc]
    found = [made for (_, kind), made in kept[-1].made.items() if made is not None and kind[0] == (nodes == 1)]
    if not found:
        raise click.ClickException(f"no layer is recorded: {kept[-1].refusal or 'see docs/architecture.md'}")
    return found, statistics.median(spent[len(spent) // 2 :])


def timed(programs: list[Program]) -> dict[int, float]:
    """Median microseconds of each entry of the lists, over all layers."""
    spent: dict[int, list[float]] = defaultdict(list)
    call = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    made: dict[int, Any] = {}
    for _ in range(ROUNDS):
        for program in programs:
            table = program.table
            for index in range(len(program.names)):
                code = made.setdefault(table[2 * index], call(table[2 * index]))
                start = time.perf_counter()
                code(table[2 * index + 1])
                spent[index].append(time.perf_counter() - start)
    return {index: statistics.median(times) * 1e6 for index, times in spent.items()}


def measure(loaded: Any, nodes: int) -> dict[str, Any]:
    """Milliseconds a step by kind, and gigabytes a second of the products."""
    programs, forward = programs_of(loaded, nodes)
    spent, names = timed(programs), programs[0].names
    kinds: dict[str, float] = defaultdict(float)
    for index, name in enumerate(names):
        kinds[KINDS[name.split("_")[0]]] += spent[index] * len(programs) / 1e3
    bytes_ = sum(
        weight.nbytes for program in programs for _, name, weight, _ in program.weights if name in ("weight", "numbers")
    )
    layers = sum(kinds.values())
    return {
        "nodes": nodes,
        "milliseconds": dict(kinds),
        "layers_ms": layers,
        "forward_ms": forward,
        "between_ms": forward - layers,
        "linear_gb_per_s": bytes_ / kinds["linear"] / 1e6,
        "floor_ms": bytes_ / bytes_per_second(torch.device("cpu")) * 1e3,
    }


@click.command(help=__doc__.replace("\n    python", "\n\n\b\n    python", 1))
@click.option("--model", help="A folder or a .gguf file.  [default: the embedded one]")
@click.option("--dtype", type=click.Choice(["bf16", "fp32"]), help="[default: the file's own bits]")
@click.option("--nodes", "sizes", multiple=True, type=click.IntRange(1, 64), help="[default: 1, 8, 24, 64]")
@click.option("--output", type=click.Path(path_type=Path), help="Write the figures as JSON.")
def main(model: str | None, dtype: str | None, sizes: tuple[int, ...], output: Path | None) -> None:
    loaded = models.load(model, dtype=dtype, device="cpu")
    rows = [measure(loaded, nodes) for nodes in sizes or (1, 8, 24, 64)]
    table = Table(title=f"{loaded.name}, weights {loaded.weights}, {loaded.dtype}: ms a step", title_justify="left")
    table.add_column("")
    for row in rows:
        table.add_column(str(row["nodes"]), justify="right")
    for kind in rows[0]["milliseconds"]:
        table.add_row(kind, *(f"{row['milliseconds'].get(kind, 0.0):.2f}" for row in rows))
    for name in ("layers_ms", "between_ms", "forward_ms", "linear_gb_per_s", "floor_ms"):
        table.add_row(name, *(f"{row[name]:.2f}" for row in rows))
    Console(width=None if Console().is_terminal else 100).print(table)
    if output:
        output.write_text(json.dumps({"model": loaded.name, "weights": loaded.weights, "sizes": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
