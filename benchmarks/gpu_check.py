"""All that is to be known of a GPU, in one run: whether the gpu-marked tests pass, and whether the targets are met.

    python benchmarks/gpu_check.py --output gpu.json                          # about ten minutes on one GPU
    python benchmarks/gpu_check.py --skip-tests --shape 1b
    python benchmarks/gpu_check.py --device cpu --compile static --shape tiny --skip-tests   # does the script work?

Steps are those of Decoder.decode, captured (`--compile graphs`), undisturbed by clocks. Beside them stands the model's
forward pass alone, captured likewise; what a step takes more is everything else. Floors are measured as in
step_anatomy.py. Speeds are those of real text, so they need the embedded model; without it they are left out, and that
is said. Whatever fails is reported and the rest goes on; the exit status is 1 if a test failed or a target was missed.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import click
import torch
from rates import bytes_per_second, flops_per_second
from rich.console import Console
from rich.table import Table
from step_anatomy import FullTrees, Subject, decode, load

import racer
from racer.bench.meters import now
from racer.bench.questions import load_questions
from racer.core.model_runner import ModelRunner
from racer.core.support import probe
from racer.engine.static.cuda_graphs import Eager, Graphs, Key
from racer.engine.static.device_batch import DeviceBatch
from racer.loading import models
from racer.step.draft_tree import DraftTree

TARGETS: dict[str, tuple[str, float]] = {
    "8b: a plain step against the floor by bandwidth": ("<=", 1.25),
    "8b: a step of 64 nodes against a plain one": ("<=", 1.15),
    "8b: all but the forward, of a step of 24 nodes": ("<=", 0.03),
    "smollm2-135m: all but the forward, of a step of 24 nodes": ("<=", 0.10),
    "embedded: racer against none, both captured": (">=", 2.5),
    "embedded: racer against model.generate": (">=", 20.0),
}
"""What is asked, by the figure's name."""
SIZES = (1, 24, 64)


@attrs.frozen
class Way:
    """How steps run."""

    device: str
    dtype: str
    compile: str

    def decoder(self, model: Any, drafter: str, budget: int | str, *plugins: object) -> racer.Decoder:
        config = racer.DecodeConfig(drafter=drafter, budget=budget, compile=self.compile, plugins=plugins)
        return racer.Decoder(model, config)


# -- steps ----------------------------------------------------------------------------------------------------------


def steps(subject: Subject, way: Way, repeats: int) -> dict[str, Any]:
    """Milliseconds of steps and of their forward passes, by nodes, and what the device could do."""
    device = subject.model.device
    decoders = {
        nodes: way.decoder(subject.model, "racer" if nodes > 1 else "none", nodes, FullTrees()) for nodes in SIZES
    }
    forwards = {nodes: forward_alone(subject, nodes, way) for nodes in SIZES}
    whole: dict[int, list[float]] = {nodes: [] for nodes in SIZES}
    alone: dict[int, list[float]] = {nodes: [] for nodes in SIZES}
    for turn in range(repeats + 1):
        for nodes in SIZES:
            spent = decode(decoders[nodes], subject.prompts[0])
            forward = milliseconds(device, forwards[nodes])
            if turn:  # the first one captures
                whole[nodes].append(spent)
                alone[nodes].append(forward)
    floor = subject.bytes_read(decoders[1], len(subject.prompts[0])) / bytes_per_second(device) * 1e3
    return {
        "step_ms": {nodes: statistics.median(times) for nodes, times in whole.items()},
        "forward_ms": {nodes: statistics.median(times) for nodes, times in alone.items()},
        "floor_by_bandwidth_ms": floor,
        "floor_by_arithmetic_ms": 2 * subject.weights() / flops_per_second(device, subject.model.dtype) * 1e3,
    }


def forward_alone(subject: Subject, nodes: int, way: Way) -> Callable[[], Any]:
    """The model's forward pass over a tree behind the prompt, its mask and positions ready, as steps run it."""
    model, device, prompt = subject.model, subject.model.device, subject.prompts[0]
    plan = probe(model).plan
    assert plan is not None
    runner, batch = ModelRunner(model, plan), DeviceBatch(plan.layout, 1, len(prompt) + nodes)
    batch.reserve(len(prompt) + nodes)
    batch.cache.append(len(prompt))
    zero = torch.zeros(1, dtype=torch.long, device=device)
    batch.begin([0], zero, len(prompt) + nodes)
    tree = DraftTree.chain(zero[:, None].expand(-1, nodes), torch.full_like(zero, nodes))
    window = batch.window(nodes)
    placed = batch.place(tree, window)
    mask = plan.masks.build(placed.seen, placed.position, placed.places, model.dtype)
    window.aim(placed.slots)
    backend, key = Graphs(device) if way.compile == "graphs" else Eager(), Key(nodes, window.length, "forward")

    def body() -> Any:
        return runner.run(tree.tokens, mask, placed.position, window)

    with torch.no_grad():
        backend.prepare(key, body, check=True)
    return torch.no_grad()(lambda: (backend.run(key, body), batch))  # which holds the storage


def milliseconds(device: torch.device, call: Callable[[], Any]) -> float:
    """Of one of five calls in a row."""
    start = now(device)
    for _ in range(5):
        call()
    return (now(device) - start) * 1e3 / 5


# -- speeds ---------------------------------------------------------------------------------------------------------


def speeds(way: Way, new: int, questions: int) -> dict[str, float]:
    """Tokens a second of real text, prefill included: the median question's."""
    loaded = models.load(None, dtype=way.dtype, device=way.device)
    prompts = [
        loaded.encode([{"role": "user", "content": question.turns[0]}])
        for question in load_questions(["builtin"])[:questions]
    ]
    how: dict[str, Any] = {"max_new_tokens": new, "do_sample": False}
    methods: dict[str, Callable[..., Any]] = {"model.generate": loaded.model.generate}
    for drafter in ("none", "recycling", "racer"):
        methods[drafter] = way.decoder(loaded.model, drafter, "auto").generate
    found: dict[str, list[float]] = {name: [] for name in methods}
    for number, prompt in enumerate([prompts[0], *prompts]):
        for name, generate in methods.items():
            start = now(loaded.model.device)
            tokens = generate(**prompt, **how).shape[1] - prompt["input_ids"].shape[1]
            spent = now(loaded.model.device) - start
            if number:  # the first one warms up
                found[name].append(tokens / spent)
    return {name: statistics.median(rates) for name, rates in found.items()}


# -- telling --------------------------------------------------------------------------------------------------------


def figures_of(shapes: dict[str, Any], rates: dict[str, float]) -> dict[str, float]:
    """What targets are set for, as far as it was measured."""
    found = {}
    for name, part in shapes.items():
        step, forward = part["step_ms"], part["forward_ms"]
        found[f"{name}: a plain step against the floor by bandwidth"] = step[1] / part["floor_by_bandwidth_ms"]
        found[f"{name}: a step of 64 nodes against a plain one"] = step[64] / step[1]
        found[f"{name}: all but the forward, of a step of 24 nodes"] = 1 - forward[24] / step[24]
    if rates:
        found["embedded: racer against none, both captured"] = rates["racer"] / rates["none"]
        found["embedded: racer against model.generate"] = rates["racer"] / rates["model.generate"]
        found["embedded: recycling against none, both captured"] = rates["recycling"] / rates["none"]
    return found


def met(name: str, value: float) -> bool | None:
    """Whether a target is met; None where there is none."""
    if name not in TARGETS:
        return None
    sign, asked = TARGETS[name]
    return value <= asked if sign == "<=" else value >= asked


def show(report: dict[str, Any]) -> None:
    table = Table(title=f"{report['device']}, {report['dtype']}, {report['compile']}", title_justify="left")
    for column in ("", "measured", "asked", ""):
        table.add_column(column, justify="left" if not column else "right", no_wrap=True)
    for name, part in report["shapes"].items():
        for nodes, spent in part["step_ms"].items():
            table.add_row(f"{name}: step of {nodes} nodes", f"{spent:.2f} ms", "", "")
            table.add_row(f"{name}: its forward alone", f"{part['forward_ms'][nodes]:.2f} ms", "", "")
    for name, rate in report["tokens_per_second"].items():
        table.add_row(f"embedded: {name}", f"{rate:.0f} tokens/s", "", "")
    for name, value in report["figures"].items():
        asked = " ".join(map(str, TARGETS[name])) if name in TARGETS else ""
        table.add_row(name, f"{value:.3g}", asked, {True: "met", False: "MISSED", None: ""}[met(name, value)])
    for what, reason in report["left_out"].items():
        table.add_row(f"left out: {what}", reason[:60], "", "")
    table.add_row("gpu-marked tests", report["tests"] or "not run", "", "")
    Console(width=None if Console().is_terminal else 140, highlight=False).print(table)


def run_tests() -> tuple[bool, str]:
    """Whether the gpu-marked tests passed, and pytest's last line."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests"]
    done = subprocess.run(command, cwd=Path(__file__).parent.parent, capture_output=True, text=True)
    click.echo(done.stdout[-6000:], err=True)
    return done.returncode == 0, (done.stdout.strip() or done.stderr.strip() or "no output").splitlines()[-1]


@click.command(help=__doc__.replace("\n    python", "\n\n\b\n    python", 1))
@click.option("--device", default="cuda", show_default=True)
@click.option("--dtype", default="bf16", show_default=True, type=click.Choice(["bf16", "fp16", "fp32"]))
@click.option("--compile", "choice", default="graphs", show_default=True, help="How steps run (DecodeConfig.compile).")
@click.option("--shape", "names", multiple=True, default=("smollm2-135m", "8b"), show_default=True)
@click.option("--context", default=512, show_default=True, type=click.IntRange(1), help="Tokens in the cache.")
@click.option("--repeats", default=5, show_default=True, type=click.IntRange(1))
@click.option("--questions", default=8, show_default=True, type=click.IntRange(0), help="0: no real text.")
@click.option("--max-new-tokens", "new", default=128, show_default=True, type=click.IntRange(2))
@click.option("--skip-tests", is_flag=True)
@click.option("--output", type=click.Path(path_type=Path), help="Write the figures as JSON.")
def main(
    device: str,
    dtype: str,
    choice: str,
    names: tuple[str, ...],
    context: int,
    repeats: int,
    questions: int,
    new: int,
    skip_tests: bool,
    output: Path | None,
) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        raise click.ClickException("there is no CUDA device here: --device cpu --compile static tries the script out")
    way, began = Way(device, dtype, choice), time.perf_counter()
    passed, tests = (True, "") if skip_tests else run_tests()
    shapes: dict[str, Any] = {}
    rates: dict[str, float] = {}
    left_out: dict[str, str] = {}
    for name in names:
        try:
            shapes[name] = steps(load(name, device, dtype, context, 1), way, repeats)
        except Exception as error:  # too large for the device, say; the rest is worth knowing all the same
            left_out[name] = f"{type(error).__name__}: {error}"
    if questions:
        try:
            rates = speeds(way, new, questions)
        except Exception as error:
            left_out["real text"] = f"{type(error).__name__}: {error}"
    figures = figures_of(shapes, rates)
    report = {
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "dtype": dtype,
        "compile": choice,
        "torch": torch.__version__,
        "tests": tests,
        "shapes": shapes,
        "tokens_per_second": rates,
        "figures": figures,
        "left_out": left_out,
        "seconds": time.perf_counter() - began,
    }
    show(report)
    if output:
        output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if not passed or any(met(name, value) is False for name, value in figures.items()):
        sys.exit(1)


if __name__ == "__main__":
    main()
