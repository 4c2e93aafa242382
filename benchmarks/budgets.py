"""What budgets are worth on the same texts, fixed and automatic ones.

    python benchmarks/budgets.py                                            # on the built-in questions
    python benchmarks/budgets.py --questions spec_bench/question.jsonl --limit 5 --budget 16 --budget auto
    python benchmarks/budgets.py --budget auto --budget own=0 --budget own=1,lesson=0     # ways to choose a size

Budgets that are run one after the other differ by chance: in bf16 their answers part, and the machine has faster and
slower minutes. Here the answers are written first, by steps of all sizes in turns, which measures what a step of each
size costs. After that every budget decodes the same answers, whatever the model would say (its logits are real), and
its rate is tokens by the measured costs of the sizes that it took.

Two things come on top of what is told of ``auto``: it drafts larger trees than it takes, which costs about half a
millisecond more a step than drafting for a fixed size; and here it finds the costs measured.
"""

from __future__ import annotations

import copy
import itertools
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import click
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

import racer
from racer.bench.questions import Question, draw, load_questions
from racer.budgets import SIZES, Auto, Budget, ByScore, Fixed
from racer.core.packed_weights import packed_model
from racer.engine.decoder import step_cost
from racer.loading import models
from racer.loading.loaded_model import LoadedModel
from racer.step.cost_curve import SHORT, CostCurve
from racer.step.draft_tree import DraftTree
from racer.step.verdict import Verdict
from racer.step.view import StepView
from racer.verifiers.base import Verifier, longest_path


class Turns(Budget):
    """All sizes, one after the other."""

    def __init__(self) -> None:
        self._sizes = itertools.cycle(SIZES)

    def nodes(self, view: StepView) -> int:
        return next(self._sizes)


@attrs.define(eq=False)
class Forced(Verifier):
    """Accepts what continues a given text, prompt and answer, of one row."""

    text: list[int] = attrs.field(factory=list)

    def verify(self, view: StepView, tree: DraftTree, logits: Tensor) -> Verdict:
        place = view.places[0]
        text = torch.tensor(self.text + [0] * tree.width)
        path, length = longest_path(tree, tree.tokens == text[place + tree.depth])
        return Verdict(path, length, text[place + length])


@attrs.define(eq=False)
class Texts:
    """Prompts, and the answers to them."""

    prompts: list[dict[str, Tensor]] = attrs.field(factory=list)
    answers: list[list[int]] = attrs.field(factory=list)


def decode(
    decoder: racer.Decoder, prompt: dict[str, Tensor], new: int, pad: int | None
) -> tuple[list[int], racer.DecodeStats]:
    """The answer, and how it came."""
    arguments: Any = {"do_sample": False, "pad_token_id": pad, "return_dict_in_generate": True}
    output = decoder.generate(**prompt, max_new_tokens=new, **arguments)
    return output.sequences[0, prompt["input_ids"].shape[1] :].tolist(), output.racer_stats


def written(loaded: LoadedModel, questions: Sequence[Question], new: int) -> Texts:
    """All turns of the questions, answered with steps of all sizes."""
    decoder, texts = racer.Decoder(loaded.model), Texts()
    decoder.strategies.budget = Turns()
    for question in track(questions, "writing the answers", console=Console(stderr=True)):
        talk: list[dict[str, str]] = []
        for turn in question.turns:
            talk.append({"role": "user", "content": turn})
            texts.prompts.append(loaded.encode(talk))
            answer, _ = decode(decoder, texts.prompts[-1], new, loaded.pad_token_id)
            texts.answers.append(answer)
            talk.append({"role": "assistant", "content": loaded.tokenizer.decode(answer, skip_special_tokens=True)})
    return texts


def budget_of(name: str) -> Budget:
    """Of a number of nodes, ``auto``, or parameters of its judge of scores."""
    if name.isdigit() and 1 <= int(name) <= SIZES[-1]:
        return Fixed(int(name))
    if name == "auto":
        return Auto()
    try:
        pairs = [part.split("=") for part in name.split(",")]
        return ByScore(**{key: float(value) for key, value in pairs})
    except (TypeError, ValueError):
        raise click.BadParameter(
            f"--budget is a number from 1 to {SIZES[-1]}, auto, or like own=0,lesson=0.1, not {name!r}"
        ) from None


def costs_by_now(model: Any) -> list[CostCurve]:
    """By doublings of the context; what is measured from here on does not change them."""
    lengths = [0, *(SHORT << doubling for doubling in range(12))]
    return [copy.deepcopy(step_cost(model, 1, "off", packed_model(model) is not None, length)) for length in lengths]


def bill(costs: list[CostCurve], length: int, stats: racer.DecodeStats) -> float:
    """Milliseconds of all steps after a prompt of this length."""
    total, length = 0.0, length + 1  # the prefill gives a token
    for nodes, kept in zip(stats.nodes, stats.accept_lengths[0], strict=True):
        total += costs[(length // SHORT).bit_length()](nodes)
        length += kept
    return total


def measure(loaded: LoadedModel, name: str, texts: Texts, costs: list[CostCurve]) -> dict[str, Any]:
    """Decode the texts once more, with a fresh drafter."""
    verifier, sizes, milliseconds = Forced(), Counter[int](), 0.0
    decoder = racer.Decoder(loaded.model, racer.DecodeConfig(verifier=verifier))
    decoder.strategies.budget = budget_of(name)
    for prompt, answer in zip(texts.prompts, texts.answers, strict=True):
        verifier.text = prompt["input_ids"][0].tolist() + answer
        again, stats = decode(decoder, prompt, len(answer), loaded.pad_token_id)
        assert again == answer
        sizes.update(stats.nodes)
        milliseconds += bill(costs, prompt["input_ids"].shape[1], stats)
    tokens = sum(len(answer) - 1 for answer in texts.answers)  # the prefill gives the first
    steps = sizes.total()
    return {
        "tokens a second": 1e3 * tokens / milliseconds,
        "mean accepted tokens": tokens / steps,
        "nodes a step": sum(size * count for size, count in sizes.items()) / steps,
        "steps by size": dict(sorted(sizes.items())),
    }


@click.command(help=__doc__)
@click.option("--questions", multiple=True, default=("builtin",), show_default=True)
@click.option("--limit", default=2, show_default=True, help="Questions of each group.")
@click.option("--seed", default=0, show_default=True, help="Which ones.")
@click.option(
    "--budget", "budgets", multiple=True, default=("1", "8", "16", "24", "32", "64", "auto"), show_default=True
)
@click.option("--max-new-tokens", "new", type=click.IntRange(2), default=128, show_default=True)
@click.option("--output", type=click.Path(path_type=Path), help="Write the figures as JSON.")
def main(
    questions: tuple[str, ...], limit: int, seed: int, budgets: tuple[str, ...], new: int, output: Path | None
) -> None:
    for name in budgets:
        budget_of(name)
    loaded, chosen, figures = models.load(None), draw(load_questions(questions), limit, seed), {}
    texts = written(loaded, chosen, new)
    costs = costs_by_now(loaded.model)
    table = Table("budget", "tokens/s", "of the best", "accepted", "nodes a step", box=None, header_style="bold")
    for name in track(budgets, "budgets", console=Console(stderr=True)):
        figures[name] = measure(loaded, name, texts, costs)
    best = max(part["tokens a second"] for part in figures.values())
    for name, part in figures.items():
        rate = part["tokens a second"]
        row = f"{rate:.1f}", f"{rate / best:.3f}", f"{part['mean accepted tokens']:.2f}", f"{part['nodes a step']:.1f}"
        table.add_row(name, *row)
    console = Console(highlight=False)
    console.print(f"a step's milliseconds below {SHORT} tokens:", {size: round(costs[0](size), 1) for size in SIZES})
    console.print(table)
    if output:
        report = {"texts": len(texts.answers), "milliseconds": costs[0].points(), "budgets": figures}
        output.write_text(json.dumps(report, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
