"""One run of ``racer batch`` as the user sees it. Imports torch late: the files are looked at first."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import attrs
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from racer.batch import lines
from racer.batch.defaults import Defaults
from racer.batch.index import Index
from racer.batch.output import Output, opened
from racer.cli import render
from racer.config import DecodeConfig
from racer.errors import ConfigError

if TYPE_CHECKING:
    from racer.batch.runner import Tally
    from racer.cli.batch import BatchOptions
    from racer.engine.continuous.figures import EngineFigures

WAITING = 2
"""Lines in the engine for each row: one is decoded, the next one has been encoded."""
TOLD_EVERY = 30.0
"""Seconds between two lines about the progress, where there is no terminal for a bar."""


@attrs.frozen
class Result:
    """How a run ended, lines of earlier runs included."""

    answered: int
    failed: int


def run(options: BatchOptions) -> Result:
    """Answer what is not answered yet, show how it goes, and tell the figures.

    :raises ConfigError: the input has an id twice, or the output is not its.
    :raises RacerError: the model cannot be loaded, or the engine failed.
    :raises OSError: a file cannot be read or written.
    """
    config = options.config()
    with closing(Index(lines.read(options.source))) as index:
        if not index.total:
            raise ConfigError(f"{options.source} has no lines")
        defaults = _defaults(options)
        with opened(options.output, index, defaults.digest) as output:
            return _Run(options, config, defaults, index, output).result()


def _defaults(options: BatchOptions) -> Defaults:
    """What shapes answers: of weights, what they come to on this machine and device, which may be another next time."""
    from racer.loading import models

    given = {field.name: getattr(options, field.name) for field in attrs.fields(Defaults)}
    shape = {name: getattr(options, name) for name in ("dtype", "device", "weights")}
    return Defaults(**given | {"weights": models.weights_of(options.model, **shape)})


@attrs.frozen
class _Run:
    """What is asked, what of it is answered, and where answers go."""

    options: BatchOptions
    config: DecodeConfig
    defaults: Defaults
    index: Index
    output: Output

    def result(self) -> Result:
        """Of all lines, when those that are left have been answered."""
        found, index = self.output.found, self.index
        if found.torn:
            render.note(f"the last line of {self.output.path} had been cut off while it was written: it is done again")
        if index.done:
            render.note(f"{index.done} of {index.total} lines are in {self.output.path} already")
        if index.done == index.total:
            return Result(found.answered, found.failed)
        tally = self._answer()
        return Result(found.answered + tally.answered, found.failed + tally.failed)

    def _answer(self) -> Tally:
        import racer
        from racer.batch.runner import Runner
        from racer.loading import models

        options, loaded = self.options, self.options.load()
        window = WAITING * options.rows
        limits = {"max_tokens": options.max_tokens, "max_rows": options.rows, "max_waiting": window}
        with models.quiet(), racer.Engine(loaded.model, self.config, **limits) as engine:
            started = time.monotonic()
            with _shown(self.index, engine.figures) as heard:
                runner = Runner(
                    loaded, engine, self.defaults, self.output, stopping=_stopping, window=window, heard=heard
                )
                try:
                    runner.run(lines.read(options.source), self.index)
                finally:
                    self._tell(runner.tally, engine.figures(), time.monotonic() - started)
        return runner.tally

    def _tell(self, tally: Tally, figures: EngineFigures, seconds: float) -> None:
        """The summary, also of a run that was stopped."""
        total = self.index.total
        done, left = tally.answered + tally.failed, total - self.index.done - tally.answered - tally.failed
        mean = f", {figures.new_tokens / figures.row_steps:.2f} tokens a row and step" if figures.row_steps else ""
        render.note(
            f"{tally.answered} of {done} lines answered: {figures.new_tokens} tokens in {seconds:.1f} s "
            f"({figures.new_tokens / seconds:.1f} tokens/s{mean}); they are in {self.output.path}"
        )
        failed = self.output.found.failed + tally.failed
        if failed:
            first = f"; the first: {tally.first_failure}" if tally.first_failure else ""
            render.note(f"{failed} lines failed{first}")
        if left:
            render.note(f"{left} of {total} lines are left; the same command goes on with them")


def _stopping(tokenizer: Any, prompt_tokens: int, stops: Sequence[str]) -> Any:
    from transformers import StoppingCriteriaList

    from racer.serve.processors import StopText

    return StoppingCriteriaList([StopText(tokenizer, prompt_tokens, stops)])


@contextmanager
def _shown(index: Index, figures: Callable[[], EngineFigures]) -> Iterator[Callable[[Tally], None]]:
    """A bar on a terminal; elsewhere a line now and then."""
    console = Console(file=sys.stderr)
    started = told = time.monotonic()

    def speed() -> float:
        return figures().new_tokens / max(time.monotonic() - started, 1e-9)

    if not console.is_terminal:

        def tell(tally: Tally) -> None:
            nonlocal told
            if time.monotonic() - told > TOLD_EVERY:
                told = time.monotonic()
                fresh = tally.answered + tally.failed
                left = (index.total - index.done - fresh) * (told - started) / fresh
                done = index.done + fresh
                render.note(f"{done} of {index.total} lines, {speed():.1f} tokens/s, about {left / 60:.0f} min left")

        yield tell
        return
    bar = Progress(
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[failed]}"),
        TextColumn("{task.fields[speed]:.1f} tokens/s"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        get_time=time.monotonic,
    )
    task = bar.add_task("", total=index.total, completed=index.done, failed="", speed=0.0)

    def advance(tally: Tally) -> None:
        failed = f"[yellow]{tally.failed} failed[/]" if tally.failed else ""
        bar.update(task, completed=index.done + tally.answered + tally.failed, failed=failed, speed=speed())

    with bar:
        yield advance
