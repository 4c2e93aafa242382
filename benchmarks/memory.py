"""How much memory a call takes beyond the loaded model, with a long prompt: transformers, ours with none, a drafter.

    python benchmarks/memory.py                                              # 8,000 tokens of prompt, about 3 minutes
    python benchmarks/memory.py --prompt-tokens 2000 --method none --method racer

Every method runs in a process of its own, after a short call that warms it up; figures are of the process's resident
memory: what was there before the call, and its peak in it (Linux only, the embedded model, CPU). Pages of a drafter's
tables are taken when they are first written to, so that most of its constant counts as the call's.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import click
import torch
from rich.console import Console
from rich.table import Table

import racer
from racer.bench.questions import load_questions
from racer.loading import models
from racer.loading.loaded_model import LoadedModel

STATUS = Path("/proc/self/status")
FORGET_PEAK = Path("/proc/self/clear_refs"), "5"


def resident(what: str) -> float:
    """MiB: ``VmRSS`` is now, ``VmHWM`` the peak."""
    found = re.search(rf"{what}:\s+(\d+) kB", STATUS.read_text(encoding="ascii"))
    assert found is not None
    return int(found[1]) / 1024


def prompt(loaded: LoadedModel, tokens: int) -> dict[str, torch.Tensor]:
    """The package's own questions, one after the other, over and over."""
    text = "\n".join(turn for question in load_questions(["builtin"]) for turn in question.turns)
    ids: list[int] = loaded.tokenizer(text).input_ids
    ids = (ids * (tokens // len(ids) + 1))[:tokens]
    return {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, tokens, dtype=torch.long)}


def measure(method: str, tokens: int, new: int) -> dict[str, float]:
    """One method in this process."""
    loaded = models.load(None)
    loaded.model.generation_config.eos_token_id = None  # all methods decode as many tokens
    generate = loaded.model.generate
    if method != "hf":
        generate = racer.Decoder(loaded.model, racer.DecodeConfig(drafter=method)).generate
    settings = {"do_sample": False, "pad_token_id": loaded.pad_token_id}
    generate(**prompt(loaded, 32), max_new_tokens=16, **settings)
    before = resident("VmRSS")
    FORGET_PEAK[0].write_text(FORGET_PEAK[1], encoding="ascii")
    generate(**prompt(loaded, tokens), max_new_tokens=new, **settings)
    return {"before": before, "peak": resident("VmHWM")}


@click.command(help=__doc__)
@click.option("--prompt-tokens", "tokens", default=8_000, show_default=True)
@click.option("--max-new-tokens", "new", default=64, show_default=True)
@click.option("--method", "methods", multiple=True, default=("hf", "none", "racer"), show_default=True)
@click.option("--here", hidden=True, help="Measure this method in this process.")
@click.option("--output", type=click.Path(path_type=Path), help="Write the figures as JSON.")
def main(tokens: int, new: int, methods: tuple[str, ...], here: str | None, output: Path | None) -> None:
    if here:
        print(json.dumps(measure(here, tokens, new)))
        return
    figures = {}
    sizes = ["--prompt-tokens", str(tokens), "--max-new-tokens", str(new)]
    for method in methods:
        command = [sys.executable, __file__, *sizes, "--here", method]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        figures[method] = json.loads(done.stdout.splitlines()[-1])
    columns = "method", "before, MiB", "peak, MiB", "the call, MiB", "against the first"
    table = Table(*columns, box=None, header_style="bold")
    first = figures[methods[0]]["peak"]
    for method, part in figures.items():
        row = part["before"], part["peak"], part["peak"] - part["before"]
        table.add_row(method, *(f"{size:.0f}" for size in row), f"{part['peak'] / first:.3f}x")
    Console(highlight=False).print(table)
    if output:
        output.write_text(json.dumps({"prompt tokens": tokens, "MiB": figures}, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
