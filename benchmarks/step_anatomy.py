"""Where a step's time goes, and how near its forward pass is to what the device can do.

    python benchmarks/step_anatomy.py                                        # the embedded model, and its shape
    python benchmarks/step_anatomy.py --shape 1b --nodes 1 --nodes 24 --output anatomy.json
    python benchmarks/step_anatomy.py --dtype keep --shape embedded --shape FILE.gguf     # weights in the files' bits
    python benchmarks/step_anatomy.py --device cuda --compile graphs --shape 8b --context 2048

Real steps are timed: Decoder.decode runs, and clocks stand around the parts of Decoder.step. Times are medians in
milliseconds; a part does not contain the parts inside it. What a step in static shapes does as a whole (all but host
work) is one part with graphs, `forward`, and two without, `mask` beside it. On CUDA every clock waits for the device,
so host and device take turns and their sum is more than an undisturbed step, which is the row `step, no clocks`.

On a CPU, what the forward pass spends on each kind of operation is told beside, and how fast its products read the
weights (benchmarks/operations.py); glue is what remains of it: the embedding, Python, what is not recorded.

The floors say what a forward pass cannot beat: all weights and the context's keys and values read once at the bandwidth
measured here, and all multiplications at the rate measured here for a large square matrix product.
"""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path
from typing import Any

import attrs
import click
import torch
import transformers
from clocks import PARTS, Clocks, clocks_on
from operations import Operations, operations, weight_bytes
from random_models import SHAPES, random_model
from rates import bytes_per_second, flops_per_second
from rich.console import Console
from rich.table import Table

import racer
from racer.bench.questions import load_questions
from racer.config import COMPILE
from racer.core.kept_layers import KeptLinear
from racer.core.kept_weights import shape_of
from racer.engine.spec import BatchSpec
from racer.hf.processors import ProcessorPipeline
from racer.hookspecs import hookimpl
from racer.loading import models
from racer.step.request import Request
from racer.step.view import Needs
from racer.strategies.base import Drafter

PATH = 4
"""Nodes that a step on a random model keeps: its own verdict would always be the root."""
WARM_UPS = 3
"""Calls before it is measured."""
STEPS = 6
"""Steps of one call, of which the first is not counted."""


class Synthetic(Drafter):
    """Full trees at random, for models that have nothing to say: a chain, and branches on it."""

    name = "synthetic"
    needs = Needs(top_k=16, probs=True)

    def draft(self, view: Any, budget: int) -> racer.DraftTree:
        places = torch.arange(budget)
        parent = torch.where(places <= PATH, places - 1, places % (PATH + 1))[None]
        tokens = torch.randint(view.vocab_size, (1, budget))
        tokens[:, 0] = view.root.cpu()
        return racer.DraftTree(tokens, parent, torch.tensor([budget]))


class FullTrees:
    """Fills drafts up with padding, so that each size is measured at its size."""

    @hookimpl(wrapper=True)
    def racer_draft(self, view: Any, budget: int) -> Any:
        tree = yield
        return None if tree is None else tree.padded(budget)


class KeepChain:
    """Accepts a synthetic tree's chain, so that something is committed."""

    @hookimpl(wrapper=True)
    def racer_verify(self, view: Any, tree: Any, logits: Any) -> Any:
        verdict = yield
        kept = min(PATH, tree.width)
        verdict.path[:, :kept] = torch.arange(kept, device=verdict.path.device)
        verdict.length.fill_(kept)
        return verdict


@attrs.frozen(eq=False)
class Subject:
    """A model to be measured."""

    name: str
    model: Any
    prompts: list[list[int]]
    real: bool
    """Whether its text makes sense, so that real drafting can be measured."""
    compile: str = "auto"
    """How steps run (``DecodeConfig.compile``)."""

    def decoder(self, nodes: int) -> racer.Decoder:
        drafter: Any = "racer" if self.real else Synthetic()
        tricks: Any = (FullTrees(),) if self.real else (FullTrees(), KeepChain())
        config = racer.DecodeConfig(drafter=drafter, budget=nodes, plugins=tricks, compile=self.compile)
        return racer.Decoder(self.model, config)

    def bytes_read(self, decoder: racer.Decoder, context: int) -> int:
        """What one forward pass must read at least: weights that are multiplied, and the context's cache."""
        plan = decoder.support.plan
        assert plan is not None
        layout = plan.layout
        cached = sum(b.heads * b.head_dim * b.dtype.itemsize for b in (*layout.keys, *layout.values))
        return sum(map(weight_bytes, self.model.modules())) + cached * context

    def weights(self) -> int:
        """Numbers in the matrices that a token is multiplied with; of an embedding only a row is read."""
        linear = (part for part in self.model.modules() if isinstance(part, (torch.nn.Linear, KeptLinear)))
        return sum(math.prod(shape_of(part)) for part in linear)


def load(name: str, device: str, dtype: str, context: int, calls: int) -> Subject:
    """A real model with real prompts, or a random one with random prompts, of ``context`` tokens."""
    if name not in SHAPES:
        kept = None if dtype == "keep" else dtype
        loaded = models.load(None if name == "embedded" else name, dtype=kept, device=device)
        turns = [question.turns[0] for question in load_questions(["builtin"])]
        texts = ["\n\n".join(turns[-i:] + turns[:-i]) for i in range(calls)]
        ids = [loaded.encode([{"role": "user", "content": text}])["input_ids"][0].tolist() for text in texts]
        return Subject(name, loaded.model, [prompt[-context:] for prompt in ids], real=True)
    if dtype == "keep":
        raise click.ClickException("random models have no file whose bits could be kept: name a dtype")
    model = random_model(name, torch.device(device), getattr(torch, models.DTYPES[dtype]))
    prompts = torch.randint(model.config.vocab_size, (calls, context)).tolist()
    return Subject(name, model, prompts, real=False)


# -- measuring ------------------------------------------------------------------------------------------------------


def decode(decoder: racer.Decoder, prompt: list[int]) -> float:
    """Run a few steps; the milliseconds of one, on average."""
    request = Request(prompt=tuple(prompt), limit=STEPS * 100)
    spec = BatchSpec(
        requests=(request,), pipeline=ProcessorPipeline(), stops=lambda row: len(row.accept_lengths) >= STEPS - 1
    )
    stats = decoder.decode(spec)
    return (stats.seconds - stats.first_token_seconds) * 1e3 / stats.steps


def measure(subject: Subject, sizes: list[int], repeats: int) -> dict[str, Any]:
    """All sizes in turn, again and again, so that a machine that gets slower does so for all of them."""
    device, dtype = subject.model.device, subject.model.dtype
    decoders = {nodes: subject.decoder(nodes) for nodes in sizes}
    clocks = {nodes: Clocks(device) for nodes in sizes}
    bare: dict[int, list[float]] = {nodes: [] for nodes in sizes}
    bandwidth, rate = 0.0, 0.0
    for decoder in decoders.values():  # compiles, captures, allocates, finds the fastest ways to multiply
        for _ in range(WARM_UPS):
            decode(decoder, subject.prompts[0])
    for call in range(-(-repeats // (STEPS - 1))):
        prompt = subject.prompts[call]
        bandwidth, rate = max(bandwidth, bytes_per_second(device)), max(rate, flops_per_second(device, dtype))
        for nodes, decoder in decoders.items():
            bare[nodes].append(decode(decoder, prompt))
            with clocks_on(decoder, clocks[nodes]):
                decode(decoder, prompt)
    context = len(subject.prompts[0])
    floors = subject.bytes_read(decoders[sizes[0]], context) / bandwidth, 2 * subject.weights() / rate
    rows = [
        summary(nodes, clocks[nodes].steps, bare[nodes], [floors[0] * 1e3, nodes * floors[1] * 1e3]) for nodes in sizes
    ]
    if subject.compile == "auto":
        for row in rows:
            row |= of_kinds(operations(subject.model, row["nodes"], context), row["parts_ms"]["forward"])
    return {
        "shape": subject.name,
        "weights": subject.weights(),
        "context": context,
        "gigabytes_per_second": bandwidth / 1e9,
        "teraflops_per_second": rate / 1e12,
        "sizes": rows,
    }


def summary(nodes: int, steps: list[dict[str, float]], bare: list[float], floors: list[float]) -> dict[str, Any]:
    """Medians over the steps of one size; the first step of a call pays for what the prefill left behind."""
    counted = [step for i, step in enumerate(steps) if i % STEPS]
    parts = {part: statistics.median(step.get(part, 0.0) for step in counted) for part in PARTS}
    whole = statistics.median(sum(step.values()) for step in counted)
    return {
        "nodes": nodes,
        "steps": len(counted),
        "step_ms": whole,
        "bare_step_ms": statistics.median(bare),
        "parts_ms": parts,
        "outside_share": 1 - parts["forward"] / whole,
        "floor_ms": {"bandwidth": floors[0], "arithmetic": floors[1]},
        "forward_to_floor": parts["forward"] / max(floors),
    }


def of_kinds(found: Operations | None, forward: float) -> dict[str, Any]:
    """What the forward consists of."""
    if found is None:
        return {}
    kinds = found.milliseconds | {"glue": forward - sum(found.milliseconds.values())}
    products = [attrs.asdict(one) | {"gigabytes_per_second": one.gigabytes_per_second} for one in found.products]
    return {"operations_ms": kinds, "products": products}


# -- telling --------------------------------------------------------------------------------------------------------


def lines_of(row: dict[str, Any]) -> dict[str, str]:
    """One column of the table."""
    whole = row["step_ms"]
    parts: dict[str, str] = {}
    for part, spent in row["parts_ms"].items():
        parts[part] = f"{spent:.2f} ({spent / whole:.1%})"
        if part == "forward" and "operations_ms" in row:
            parts |= {f"  of it {kind}": f"{spent:.2f}" for kind, spent in row["operations_ms"].items()}
    floors = {f"floor by {name}": f"{floor:.2f}" for name, floor in row["floor_ms"].items()}
    return {
        "step": f"{whole:.2f}",
        **parts,
        "all but the forward": f"{row['outside_share']:.1%}",
        "step, no clocks": f"{row['bare_step_ms']:.2f}",
        **floors,
        "forward / larger floor": f"{row['forward_to_floor']:.2f}x",
    }


def products_of(rows: list[dict[str, Any]]) -> dict[str, list[str]]:
    """How fast weights of each shape are read, by nodes."""
    found: dict[str, list[str]] = {}
    for index, row in enumerate(rows):
        for one in row.get("products", ()):
            name = f"{one['layers']} of {one['shape'][0]} x {one['shape'][1]}"
            found.setdefault(name, [""] * len(rows))[index] = f"{one['gigabytes_per_second']:.1f}"
    return found


def show(results: list[dict[str, Any]], device: str, dtype: str) -> None:
    """One table, a section for each shape."""
    sizes = [row["nodes"] for row in results[0]["sizes"]]
    table = Table(title=f"ms a step on {device} in {dtype}, by nodes", title_justify="left")
    table.add_column("")
    for nodes in sizes:
        table.add_column(str(nodes), justify="right", no_wrap=True)
    for result in results:
        table.add_section()
        rates = f"{result['gigabytes_per_second']:.0f} GB/s, {result['teraflops_per_second']:.2f} TFLOP/s"
        table.add_row(f"[bold]{result['shape']}[/], {result['context']} tokens, {rates}")
        columns = [lines_of(row) for row in result["sizes"]]
        for line in max(columns, key=len):
            table.add_row(line, *(column.get(line, "") for column in columns))
        for shape, rates in products_of(result["sizes"]).items():
            table.add_row(f"GB/s, {shape}", *rates)
    width = None if Console().is_terminal else 140
    Console(width=width).print(table)


@click.command(help=__doc__.replace("\n    python", "\n\n\b\n    python", 1))
@click.option("--device", default="auto", show_default=True)
@click.option("--dtype", default="bf16", show_default=True, type=click.Choice(["bf16", "fp16", "fp32", "keep"]))
@click.option(
    "--compile", "choice", default="auto", show_default=True, type=click.Choice(COMPILE), help="How steps run."
)
@click.option(
    "--shape", "shapes", multiple=True, help="embedded, a random model (tiny, smollm2-135m, 1b, 8b), or a name."
)
@click.option("--nodes", "sizes", multiple=True, type=click.IntRange(1), help="[default: 1, 8, 16, 24, 32, 64]")
@click.option("--context", default=256, show_default=True, type=click.IntRange(1), help="Tokens in the cache.")
@click.option("--repeats", default=30, show_default=True, type=click.IntRange(1), help="Steps of each size.")
@click.option("--output", type=click.Path(path_type=Path), help="Write the figures as JSON.")
def main(
    device: str,
    dtype: str,
    choice: str,
    shapes: tuple[str, ...],
    sizes: tuple[int, ...],
    context: int,
    repeats: int,
    output: Path | None,
) -> None:
    place = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    usual = ("embedded",) if dtype == "keep" else ("embedded", "smollm2-135m")
    usual += () if place == "cpu" or dtype == "keep" else ("1b", "8b")
    results = []
    for name in shapes or usual:
        try:
            subject = load(name, place, dtype, context, -(-repeats // (STEPS - 1)))
        except MemoryError as error:
            click.echo(f"{name} is left out: {error}", err=True)
            continue
        subject = attrs.evolve(subject, compile=choice)
        results.append(measure(subject, list(dict.fromkeys(sizes or (1, 8, 16, 24, 32, 64))), repeats))
    if not results:
        raise click.ClickException("nothing was measured")
    show(results, place, dtype)
    if output:
        facts = {"device": place, "dtype": dtype, "compile": choice, "threads": torch.get_num_threads()}
        facts |= {"torch": torch.__version__, "transformers": transformers.__version__, "shapes": results}
        output.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
