"""``racer-datastore``: build an index, and look at one."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click

from racer.cli.options import Place

# What imports torch or rich is imported where it is used, so that --help comes at once.

EXAMPLES = """\b
Examples:
  racer-datastore build notes/ --tokenizer ./my-model --output notes.idx
  racer-datastore info notes.idx
  RACER_DATASTORE=notes.idx racer generate --model ./my-model --drafter datastore "Once upon a time"
"""
BUILD_EXAMPLES = """\b
Examples:
  racer-datastore build notes/ manual.txt --tokenizer ./my-model --output notes.idx
  racer-datastore build chats.jsonl --field answer --tokenizer default --output chats.idx

A .jsonl file holds one object a line with the text (or a list of texts) in one field; any other file is UTF-8 text.
"""
INFO_EXAMPLES = """\b
Examples:
  racer-datastore info notes.idx
  racer-datastore info notes.idx --tokenizer ./my-model --json
"""


class Refusal(click.ClickException):
    """One line, exit code 2."""

    exit_code = 2


class Commands(click.Group):
    """Turns deliberate errors into one line."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            from racer.errors import RacerError

            if isinstance(error, RacerError):
                raise Refusal(" ".join(str(error).split())) from error
            if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):  # a full disk, mostly
                where = "" if error.filename is None else f": {str(error.filename)[:100]}"
                raise Refusal(f"{error.strerror or error}{where}") from error
            raise


@click.group(cls=Commands, epilog=EXAMPLES)
@click.version_option(package_name="racer-datastore")
def main() -> None:
    """Index your own texts, for RACER's drafter `datastore` to copy from."""


@main.command(epilog=BUILD_EXAMPLES)
@click.argument("corpus", nargs=-1, required=True, type=Place(path_type=Path))
@click.option("--tokenizer", required=True, metavar="MODEL", help="Model id, folder or .gguf, or `default`.")
@click.option("--output", "-o", required=True, type=Place(dir_okay=False, path_type=Path), help="The index file.")
@click.option("--field", default="text", show_default=True, help="Field of the objects in .jsonl files.")
@click.option("--depth", default=16, show_default=True, type=click.IntRange(2, 255), help="Longest context, in tokens.")
def build(corpus: tuple[Path, ...], tokenizer: str, output: Path, field: str, depth: int) -> None:
    """Index CORPUS: files, and folders with .txt, .md and .jsonl files."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from racer_datastore.building import build as build_index
    from racer_datastore.corpus import list_files
    from racer_datastore.tokens import load

    files = list_files(corpus)
    if not output.parent.is_dir():
        raise Refusal(f"folder {output.parent} does not exist")
    started = time.perf_counter()
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("loading the tokenizer", total=None)

        def fetched(what: str, done: int, total: int) -> None:
            progress.update(task, description=what, completed=done, total=total or None)

        def tokenised(size: int) -> None:
            progress.advance(task, size)
            if progress.finished:
                progress.update(task, description="sorting")

        loaded = load(tokenizer, fetched)
        progress.reset(task, description="tokenising", total=sum(file.stat().st_size for file in files))
        header = build_index(files, loaded, output, field=field, depth=depth, progress=tokenised)
    click.echo(f"{output}: {header.tokens} tokens, {header.file_size} bytes, {time.perf_counter() - started:.1f} s")


@main.command(epilog=INFO_EXAMPLES)
@click.argument("file", type=Place(path_type=Path))
@click.option("--tokenizer", metavar="MODEL", help="Also check that the index belongs to this model.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def info(file: Path, tokenizer: str | None, as_json: bool) -> None:
    """Check FILE, and say what it holds."""
    from racer_datastore.format import DatastoreError
    from racer_datastore.index import Index
    from racer_datastore.tokens import fingerprint, load

    header = Index(file).header
    if tokenizer is not None and fingerprint(load(tokenizer)) != header.fingerprint:
        raise DatastoreError(f"{file} was built with another tokenizer than that of {tokenizer}")
    facts = {
        "file": str(file),
        "version": header.version,
        "tokens": header.tokens,
        "max_id": header.max_id,
        "token_bytes": header.token_bytes,
        "depth": header.depth,
        "bytes": header.file_size,
        "tokenizer": header.fingerprint.hex(),
    }
    if as_json:
        click.echo(json.dumps(facts))
        return
    for name, value in facts.items():
        click.echo(f"{name:12} {value}")
