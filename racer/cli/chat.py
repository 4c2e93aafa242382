"""``racer chat``."""

from __future__ import annotations

import sys
from typing import Any

import attrs
import click

from racer.cli import options as checked
from racer.cli.model_options import EngineOptions
from racer.cli.system_prompt import system_option
from racer.loading import extras, sources


@attrs.frozen(kw_only=True)
class ChatOptions(EngineOptions):
    """What ``racer chat`` was asked for."""

    system: str | None
    max_new_tokens: int
    max_tokens: int
    temperature: float | None
    top_p: float | None
    seed: int | None

    def __attrs_post_init__(self) -> None:
        for name in ("top_p", "seed"):
            if getattr(self, name) is not None and not self.temperature:
                raise click.UsageError(
                    f"--{name.replace('_', '-')} has no effect without sampling: add --temperature (for example 0.8)"
                )


@click.command()
@checked.model_option
@system_option
@checked.drafter_option
@checked.budget_option
@click.option(
    "--max-new-tokens",
    callback=checked.count,
    metavar="N",
    default="1024",
    show_default=True,
    help="Length limit of an answer.",
)
@click.option(
    "--max-tokens",
    callback=checked.count,
    metavar="N",
    default="32768",
    show_default=True,
    help="Room of the context cache; the model's own context is a limit too.",
)
@checked.temperature_option
@checked.top_p_option
@click.option("--seed", callback=checked.seed, metavar="S", help="Repeat a sampled chat.  [default: a fresh one]")
@checked.machine_options
def chat(**given: Any) -> None:
    """Chat with a model in the terminal; text that the drafter guessed is green.

    Enter sends, Alt+Enter or Ctrl+J begins a new line, Ctrl+C stops an answer, and at an empty prompt it quits, as
    Ctrl+D does. /help lists the commands. Where standard input is no terminal, each of its lines is a question or a
    command; answers go to standard output and everything about them to standard error.

    \b
    Examples:
      racer chat
      racer chat --model ./my-model --temperature 0.8 --system "Answer in one sentence."
      printf 'Who wrote Faust?\\nWhen?\\n' | racer chat
    """
    options = ChatOptions(**given)
    if _on_terminal():
        extras.require("chat", "a chat in the terminal")
    if options.model is not None:
        sources.find(options.model)  # a wrong path is told before torch is imported
    from racer.cli.chatting import run

    run(options, terminal=_on_terminal())


def _on_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()
