"""``racer generate``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from racer.cli import options as checked
from racer.cli import streams
from racer.cli.options import Options
from racer.loading import models, sources

if TYPE_CHECKING:
    from racer.cli.decoding import Outcome, PromptRun
    from racer.cli.streaming import Streamer


@click.command()
@click.argument("prompt", required=False)
@checked.model_option
@checked.drafter_option
@click.option(
    "--verifier",
    metavar="V",
    default="auto",
    show_default=True,
    help="Who accepts; auto is 'sampling' with a temperature above 0 and 'greedy' otherwise.",
)
@checked.budget_option
@click.option(
    "--max-new-tokens", callback=checked.count, metavar="N", default="256", show_default=True, help="Length limit."
)
@checked.temperature_option
@checked.top_p_option
@click.option(
    "--top-k", callback=checked.top_k, metavar="K", help="Sample from the K most likely tokens.  [default: from all]"
)
@click.option(
    "--min-p", callback=checked.min_p, metavar="P", help="Drop tokens less likely than P times the most likely one."
)
@click.option(
    "--seed", callback=checked.seed, metavar="S", help="Repeat a sampled text.  [default: a fresh one, reported]"
)
@checked.machine_options
@checked.compile_option
@click.option("--raw", is_flag=True, help="Continue PROMPT as it is, without the model's chat template.")
@click.option(
    "--compare",
    is_flag=True,
    help="Decode PROMPT plainly too (drafter 'none'; same process, model, verifier and seed, after a short warm-up of "
    "both) and tell the speedup, and whether the tokens are identical.",
)
@click.option(
    "--state",
    callback=checked.state,
    type=checked.Place(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Draft by what was learned in earlier runs, and keep what is learned in this one. FILE is made if it is not "
    "there, and belongs to one model.",
)
@click.option("--json", is_flag=True, help="Print one JSON object with the text and all figures, and nothing else.")
def generate(prompt: str | None, **given: Any) -> None:
    """Answer PROMPT ('-' reads it from standard input), printing text as it is accepted.

    On a terminal, text that the drafter guessed is green. The figures go to standard error.

    \b
    Examples:
      racer generate "Why is the sky blue?"
      racer generate --temperature 0.8 --top-p 0.95 --seed 7 "Tell me a story."
      racer generate --model ./my-model --dtype fp32 --compare "Explain recursion."
      racer generate --raw --drafter retrieval --budget 32 "def fibonacci(n):"
      racer generate --drafter retrieval:ngram=6,max_nodes=5000 "List the primes."
      racer generate --state my.racer "Review this function: ..."
      cat question.txt | racer generate --json -
    """
    options = Options(prompt=_read(prompt), **given)
    if options.model is not None:
        sources.find(options.model)  # a wrong path is told before torch is imported
    _run(options)


def _read(prompt: str | None) -> str:
    """The prompt; bytes that are no text are replaced, as no tokenizer takes them."""
    if prompt is None:
        raise click.UsageError("no PROMPT: give one, or - to read it from standard input")
    text = streams.read_input().removesuffix("\n") if prompt == "-" else prompt
    try:
        data = text.encode(errors="surrogateescape")
    except UnicodeEncodeError:  # half a character that stands for no byte
        data = text.encode(errors="replace")
    return data.decode(errors="replace")


def _run(options: Options) -> None:
    from racer.cli import render
    from racer.cli.decoding import Plan, PromptRun
    from racer.cli.streaming import Streamer

    plan = Plan.of(options)
    loaded = options.load()
    with models.quiet():
        run = PromptRun(options, plan, loaded)
        if run.limit < options.max_new_tokens:
            render.note(
                f"--max-new-tokens is cut from {options.max_new_tokens} to {run.limit}: "
                f"that fills the model's context after a prompt of {run.prompt_tokens} tokens"
            )
        if options.compare:
            run.warm_up()
        sink = (lambda text, drafted: None) if options.json else render.TextSink(sys.stdout)
        streamer = Streamer(loaded.tokenizer, sink, run.before)
        try:
            outcome = run.decode(streamer)
        except KeyboardInterrupt:
            _finish(streamer, options)  # what is there is worth seeing
            run.keep()
            raise
        _finish(streamer, options)
        try:
            _tell(run, outcome, options)
        finally:  # after the answer: what cannot be kept must not cost it
            run.keep()


def _tell(run: PromptRun, outcome: Outcome, options: Options) -> None:
    from racer.cli import render
    from racer.loading.detokenizer import continuation

    comparison = run.compare(outcome) if options.compare else None
    if options.json:
        text = continuation(run.loaded.tokenizer, run.before, outcome.tokens)
        render.print_json(render.report(run, outcome, comparison, text))
    else:
        render.summary(run, outcome, comparison)
    sys.stdout.flush()


def _finish(streamer: Streamer, options: Options) -> None:
    streamer.end()
    if not options.json:
        click.echo()
