"""``racer bench``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import click

from racer.cli import options as checked
from racer.cli.model_options import ModelOptions
from racer.errors import ConfigError
from racer.loading import sources


def _names(ctx: click.Context, param: click.Parameter, typed: str | None) -> tuple[str, ...] | None:
    if typed is None:
        return None
    names = tuple(name.strip() for name in typed.split(","))
    if not all(names):
        raise click.BadParameter(f"expected names with commas between them, not {typed!r}", ctx, param)
    return names


@attrs.frozen(kw_only=True)
class BenchOptions(ModelOptions):
    """What ``racer bench`` was asked for."""

    questions: tuple[str, ...]
    methods: tuple[str, ...] | None
    peers: tuple[str, ...] | None
    compile: str
    max_new_tokens: int
    limit: int | None
    budget: int | str
    seed: int
    temperature: float
    top_p: float
    batch_size: int
    cold: bool
    score: bool
    resume: bool
    output: Path

    def __attrs_post_init__(self) -> None:
        if self.top_p < 1 and not self.temperature:
            raise click.UsageError("--top-p has no effect without sampling: add --temperature (for example 0.8)")


@click.command()
@checked.model_option
@click.option(
    "--questions",
    multiple=True,
    default=("builtin",),
    metavar="PATH|NAME",
    show_default="builtin",
    help="A .jsonl file (Spec-Bench's format, or lines with 'prompt'), a text file (one prompt), or a data set of the "
    "hub as NAME[:CONFIG[:SPLIT]]. Repeat for more.",
)
@click.option(
    "--methods",
    callback=_names,
    metavar="M,M,...",
    help="hf and hf-prompt-lookup are transformers' own; all others are DRAFTER[@BUDGET][/VERIFIER], see 'racer "
    "plugins'. none and hf are always measured.  [default: none,hf,hf-prompt-lookup,racer]",
)
@click.option(
    "--peers",
    callback=_names,
    metavar="P,P,...",
    help="Other programs, in turns with ours, on the same GGUF file: llama.cpp (its llama-server, on the PATH or where "
    "RACER_LLAMA_SERVER says), plain and with its n-gram drafting.",
)
@click.option(
    "--max-new-tokens", callback=checked.count, metavar="N", default="128", show_default=True, help="Length limit."
)
@click.option(
    "--limit", callback=checked.limit, metavar="N|all", default="5", show_default=True, help="Questions per group."
)
@click.option(
    "--budget",
    callback=checked.budget,
    metavar="N|auto",
    default="auto",
    show_default=True,
    help="Tree nodes scored a step, where a method names no budget of its own.",
)
@click.option(
    "--seed", callback=checked.seed, metavar="S", default="0", show_default=True, help="Draws questions and tokens."
)
@click.option(
    "--temperature", callback=checked.temperature, metavar="T", default="0", show_default=True, help="0 is greedy."
)
@click.option(
    "--top-p",
    callback=checked.top_p,
    metavar="P",
    default="1",
    show_default=True,
    help="Sample from the most likely tokens that sum to P.",
)
@checked.machine_options
@checked.compile_option
@click.option(
    "--batch-size", callback=checked.count, metavar="B", default="1", show_default=True, help="Questions at once."
)
@click.option("--cold", is_flag=True, help="Forget what was learned before every prompt.")
@click.option("--score", is_flag=True, help="Compare answers with the questions' references (one number each).")
@click.option("--resume", is_flag=True, help="Go on with the run in --output.")
@click.option(
    "--output",
    type=checked.Place(file_okay=False, path_type=Path),
    metavar="DIR",
    default="bench-results",
    show_default=True,
    help="Where everything is written.",
)
def bench(**given: Any) -> None:
    """Measure methods side by side: same process, same prompts, order rotating from question to question.

    Writes report.html, report.md, results.json and answer files in Spec-Bench's format. An interrupted run keeps what
    it has, and --resume goes on with it.

    \b
    Examples:
      racer bench --limit 2 --max-new-tokens 64 --output out
      racer bench --questions spec_bench/question.jsonl --methods prompt-lookup,racer-paper,racer --output out
      racer bench --methods racer@16,racer@64,racer --temperature 0.7 --top-p 0.8 --cold --output sampled
      racer bench --questions gsm8k.jsonl --score --methods racer,racer/typical --temperature 0.7 --output quality
      racer bench --model model-q4_k_m.gguf --peers llama.cpp --methods racer --output beside-llama.cpp
      racer bench --resume --limit 2 --max-new-tokens 64 --output out
    """
    options = BenchOptions(**given)
    from racer.bench.peers import find_peers
    from racer.bench.questions import draw, load_questions  # tells if the extra is missing

    if options.model is not None:
        sources.find(options.model)  # a wrong path is told before torch is imported
    peers = find_peers(options.peers or (), options.model)
    questions = draw(load_questions(options.questions), options.limit, options.seed)
    if options.score:
        from racer.bench.score import reference_number

        if all(reference_number(question.reference) is None for question in questions):
            raise ConfigError("--score needs questions with a reference that is a number: none of these has one")
    from racer.cli.benching import run

    run(options, questions, peers)
