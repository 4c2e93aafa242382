"""What a step spends on the model's logits: greedy against sampled, verification, and the top k for drafters.

    python benchmarks/sampling_step.py                              # about a minute on 2 cores
    python benchmarks/sampling_step.py --temperature 1.5 --top-p 1

Logits are random, bf16, with about 20 tokens a row that stand out, as those of a language model do. Sampling walks the
nodes it accepts, so the trees are chains of which so many nodes as ``--accepted`` says are right, for both verifiers.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import click
import torch
from transformers import TemperatureLogitsWarper, TopPLogitsWarper

from racer.hf.processors import ProcessorPipeline
from racer.kernels import vocab_search
from racer.step.draft_tree import DraftTree
from racer.step.request import Request
from racer.step.view import StepView
from racer.verifiers import Greedy, Sampling


def random_logits(nodes: int, size: int, generator: torch.Generator) -> torch.Tensor:
    """``[1, N, V]`` bf16: a wide field, and 20 tokens a row above it, each less than the one before."""
    logits = torch.randn(nodes, size, generator=generator) * 2.5
    heads = torch.stack([torch.randperm(size, generator=generator)[:20] for _ in range(nodes)])
    logits.scatter_(1, heads, (22 - torch.arange(20.0)).expand(nodes, -1))
    return logits.bfloat16()[None]


def view_of(pipeline: ProcessorPipeline, size: int, do_sample: bool) -> StepView:
    root = torch.ones(1, dtype=torch.long)
    requests = (Request(prompt=(0, 1), seed=5),)
    return StepView(
        requests=requests, active=(True,), root=root, position=root, vocab_size=size, pipeline=pipeline,
        do_sample=do_sample,
    )  # fmt: skip


def right_chain(verifier: Any, view: StepView, logits: torch.Tensor, right: int) -> DraftTree:
    """A chain whose first ``right`` nodes below the root are what the verifier wants, and no others."""
    nodes = logits.shape[1]
    tokens = torch.zeros(1, nodes, dtype=torch.long)
    tokens[:, 0] = view.root
    for place in range(1, nodes):
        wanted = int(verifier.verify(view, DraftTree.chain(tokens, torch.tensor([place])), logits).next_token)
        tokens[:, place] = wanted if place <= right else wanted + 1 - 2 * (wanted > 0)
        if place > right:
            break
    return DraftTree.chain(tokens, torch.tensor([nodes]))


def milliseconds(works: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Medians; the works take turns, so that whatever else the machine does hits all alike."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(repeats + 1):
        for name, work in works.items():
            started = time.perf_counter()
            work()
            if turn:
                times[name].append((time.perf_counter() - started) * 1e3)
    return {name: statistics.median(found) for name, found in times.items()}


def works_of(logits: torch.Tensor, warpers: list[Any], accepted: int) -> dict[str, Callable[[], object]]:
    nodes, size = logits.shape[1:]
    pipeline, flat = ProcessorPipeline(warpers), logits[0]
    works: dict[str, Callable[[], object]] = {}
    for name, verifier, steps in (("greedy", Greedy(), ProcessorPipeline()), ("sampled", Sampling(), pipeline)):
        view = view_of(steps, size, name == "sampled")
        tree = right_chain(verifier, view, logits, min(accepted, nodes) - 1)
        assert int(verifier.verify(view, tree, logits).length) == min(accepted, nodes)
        works[f"{name}: verify"] = lambda verifier=verifier, view=view, tree=tree: verifier.verify(view, tree, logits)
    works["greedy: top 16"] = lambda: vocab_search.likely(flat, 16)
    works["sampled: top 16"] = lambda: pipeline.likely(flat, 16)
    return works


@click.command(help=__doc__)
@click.option("--temperature", default=0.7, show_default=True)
@click.option("--top-p", default=0.9, show_default=True, help="1: no top-p.")
@click.option("--vocab", "sizes", multiple=True, type=int, default=(49152, 151936), show_default=True)
@click.option("--nodes", "widths", multiple=True, type=int, default=(1, 64), show_default=True)
@click.option("--accepted", default=3, show_default=True, help="Tokens a step, the bonus token included.")
@click.option("--repeats", default=30, show_default=True)
@click.option("--threads", default=None, type=int, help="[default: torch's own]")
def main(
    temperature: float, top_p: float, sizes: list[int], widths: list[int], accepted: int, repeats: int,
    threads: int | None,
) -> None:  # fmt: skip
    torch.set_num_threads(threads or torch.get_num_threads())
    warpers: list[Any] = [TemperatureLogitsWarper(temperature)] + ([TopPLogitsWarper(top_p)] if top_p < 1 else [])
    for size in sizes:
        for nodes in widths:
            works = works_of(random_logits(nodes, size, torch.Generator().manual_seed(0)), warpers, accepted)
            found = milliseconds(works, repeats)
            greedy, sampled = (found[f"{name}: verify"] + found[f"{name}: top 16"] for name in ("greedy", "sampled"))
            click.echo(f"vocabulary {size}, {nodes} nodes: greedy {greedy:.2f} ms, sampled {sampled:.2f} ms")
            for name, value in found.items():
                click.echo(f"  {name:<24} {value:8.2f} ms")


if __name__ == "__main__":
    main()
