"""The command group, and the one place where errors become a line and an exit code.

Nothing in here or in the commands imports torch before a command needs it: ``--help`` must be fast, and wrong options
must be told at once.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

import racer
from racer.cli import streams
from racer.cli.batch import batch
from racer.cli.bench import bench
from racer.cli.chat import chat
from racer.cli.generate import generate
from racer.cli.plugins import plugins
from racer.cli.serve import serve
from racer.errors import RacerError

INTERRUPTED = 130
BROKEN_PIPE = 141


class QuietGroup(click.Group):
    """Ends quietly where click would add a line or choose an exit code of its own."""

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        with _quietly():  # --help and --version write here
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        with _quietly():
            return super().invoke(ctx)


@contextmanager
def _quietly() -> Iterator[None]:
    try:
        try:
            yield
        finally:  # also where click ends with an exception, after --help
            sys.stdout.flush()
    except KeyboardInterrupt:
        raise click.exceptions.Exit(INTERRUPTED) from None
    except BrokenPipeError:  # the reader has seen enough
        streams.drop(sys.stdout)
        raise click.exceptions.Exit(BROKEN_PIPE) from None


@click.group(
    cls=QuietGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 1 failed batch lines, 2 wrong input (one line on standard error), 130 interrupted.",
)
@click.version_option(racer.__version__, "-v", "--version", prog_name="racer", message="%(prog)s %(version)s")
@click.pass_context
def app(ctx: click.Context) -> None:
    """Decode Hugging Face language models faster, with the same tokens: no training, no second model.

    \b
    Examples:
      racer generate "Write a haiku about trees."
      racer generate --model ./my-model --compare "Explain recursion."
      racer chat
      racer serve --port 8000
      racer batch questions.jsonl answers.jsonl
      racer bench --limit 2 --max-new-tokens 64 --output out
      racer plugins
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


app.add_command(batch)
app.add_command(bench)
app.add_command(chat)
app.add_command(generate)
app.add_command(plugins)
app.add_command(serve)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; wrong input is told in one line on standard error."""
    try:
        streams.prepare()
        with _told_warnings():
            code = app.main(argv if argv is None else list(argv), prog_name="racer", standalone_mode=False)
    except RacerError as error:
        return _fail(str(error))
    except click.ClickException as error:
        return _fail(error.format_message())
    except click.exceptions.Abort:
        return INTERRUPTED
    except OSError as error:  # a full disk, mostly
        streams.drop_what_cannot_be_written()
        return _fail(f"{error.strerror or error}{'' if error.filename is None else f': {error.filename}'}")
    return code if isinstance(code, int) else 0


def _fail(message: str) -> int:
    text = " ".join(message.split())
    try:
        click.echo(f"racer: error: {text[:1].lower() if text[1:2].islower() else text[:1]}{text[1:]}", err=True)
    except OSError:  # standard error is full too
        streams.drop(sys.stderr)
    return 2


@contextmanager
def _told_warnings() -> Iterator[None]:
    """Show RACER's own warnings as lines of this program; what other libraries warn of says nothing to its user."""
    ours = Path(racer.__file__).parent

    def show(message: Warning | str, category: type[Warning], filename: str, *_: Any, **__: Any) -> None:
        if category.__module__.startswith("racer.") or Path(filename).is_relative_to(ours):
            click.echo(f"racer: warning: {' '.join(str(message).split())}", err=True)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield
