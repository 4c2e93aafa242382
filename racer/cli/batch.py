"""``racer batch``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import click

from racer.cli import options as checked
from racer.cli.model_options import EngineOptions
from racer.cli.system_prompt import system_option
from racer.loading import sources

SOME_FAILED = 1
"""The exit code of a run that went through, with lines that have an error instead of an answer."""


@attrs.frozen(kw_only=True)
class BatchOptions(EngineOptions):
    """What ``racer batch`` was asked for."""

    source: Path
    output: Path
    max_new_tokens: int
    temperature: float | None
    top_p: float | None
    seed: int
    rows: int
    max_tokens: int
    system: str | None
    raw: bool

    def __attrs_post_init__(self) -> None:
        if not self.source.is_file():
            raise click.UsageError(f"{self.source} is no regular file: IN is read twice")
        if self.raw and self.system is not None:
            raise click.UsageError("--system has no effect with --raw: drop one")
        if self.output.exists() and self.output.samefile(self.source):
            raise click.UsageError("IN and OUT are the same file: name another OUT")


@click.command(epilog="Exit codes: 0 all lines answered, 1 some lines failed, 2 wrong input, 130 interrupted.")
@click.argument("source", metavar="IN", type=checked.Place(exists=True, dir_okay=False, path_type=Path))
@click.argument("output", metavar="OUT", callback=checked.state, type=checked.Place(dir_okay=False, path_type=Path))
@checked.model_option
@checked.drafter_option
@checked.budget_option
@click.option(
    "--max-new-tokens",
    callback=checked.count,
    metavar="N",
    default="256",
    show_default=True,
    help="Length limit of answers whose lines have none.",
)
@click.option(
    "--temperature",
    callback=checked.temperature,
    metavar="T",
    help="Of answers whose lines have none; 0 is greedy.  [default: greedy]",
)
@click.option(
    "--top-p",
    callback=checked.top_p,
    metavar="P",
    help="Of sampled answers whose lines have none: sample from the most likely tokens that sum to P.",
)
@click.option(
    "--seed",
    callback=checked.seed,
    metavar="S",
    default="0",
    show_default=True,
    help="Each sampled answer has a seed of its own, made from this one and its id, or the one in its line.",
)
@click.option(
    "--rows", callback=checked.count, metavar="R", default="16", show_default=True, help="Answers decoded at once."
)
@click.option(
    "--max-tokens",
    callback=checked.count,
    metavar="N",
    default="32768",
    show_default=True,
    help="Room of the context cache, for the prompts and answers of all rows together.",
)
@system_option
@click.option("--raw", is_flag=True, help="Continue prompts as they are, without the model's chat template.")
@checked.machine_options
def batch(**given: Any) -> None:
    """Answer every line of IN, and append the answers to OUT as they end.

    Lines are in OpenAI's batch format (custom_id, method, url, body), or plain: {"prompt": ...} or {"messages": [...]},
    with an "id" and settings if you like. A run that was stopped, in whatever way, goes on when the same command is
    given again: ids that are in OUT are skipped. A line that fails has its error in OUT, and the run goes on.

    \b
    Examples:
      racer batch questions.jsonl answers.jsonl
      racer batch --model ./my-model --rows 32 --max-new-tokens 512 requests.jsonl results.jsonl
      racer batch --temperature 0.8 --top-p 0.95 --seed 7 --system "Be brief." questions.jsonl answers.jsonl
    """
    options = BatchOptions(**given)
    if options.model is not None:
        sources.find(options.model)  # a wrong path is told before torch is imported
    from racer.cli.batching import run

    if run(options).failed:
        raise click.exceptions.Exit(SOME_FAILED)
