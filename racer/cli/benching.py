"""One run of ``racer bench`` as the user sees it. Imports torch: the command imports it late."""

from __future__ import annotations

import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from racer.bench.methods import DEFAULT, TRANSFORMERS, Method, parse_methods
from racer.bench.outputs import Folder, RunState
from racer.bench.peers import Peer
from racer.bench.questions import Question
from racer.bench.report.formats import mean, number, percent, ratio
from racer.bench.run.journal import Journal
from racer.bench.run.runner import Bench
from racer.bench.run.setup import begin, describe
from racer.bench.settings import Settings
from racer.bench.trials import Trial
from racer.cli import render
from racer.errors import RacerError
from racer.loading import models

if TYPE_CHECKING:
    from racer.cli.bench import BenchOptions


def run(options: BenchOptions, questions: Sequence[Question], peers: Sequence[Peer] = ()) -> None:
    """Measure, show how it goes, and write everything, also when interrupted."""
    settings = Settings(
        max_new_tokens=options.max_new_tokens,
        temperature=options.temperature,
        top_p=options.top_p,
        seed=options.seed,
        batch_size=options.batch_size,
        cold=options.cold,
        compile=options.compile,
        pack=options.pack,
    )
    methods = parse_methods(
        options.methods or _default(settings),
        budget=options.budget,
        sample=settings.sample,
        batch_size=settings.batch_size,
        peers=[peer.name for peer in peers],
    )
    folder = Folder.at(options.output)
    loaded = options.load()
    with models.quiet():
        setup = describe(loaded, methods, questions, settings, peers=peers, budget=options.budget, limit=options.limit)
        if options.resume and not folder.begun:
            render.note(f"there is no run in {folder.path} to go on with: this is a new one")
        setup = begin(folder.setup, setup, begun=folder.begun, resume=options.resume)
        journal = Journal.open(folder.trials)
        journal.check_rows(len(questions))
        bench = Bench(loaded, methods, questions, settings, journal, peers={peer.name: peer for peer in peers})
        try:
            with _shown(bench, journal):
                bench.run()
        finally:  # what was measured is worth a report, whatever ended the run
            done, total = len(journal.trials), bench.total()
            state = RunState(
                command=_command(),
                score=options.score,
                trials_total=total,
                trials_done=done,
                complete=done == total,
            )
            results = folder.write(journal, questions, setup, state) if done else None
            if done < total:
                render.note(f"{done} of {total} trials are in {folder.path}; --resume goes on with them")
    if results is not None:
        _tell(results, folder)


def _default(settings: Settings) -> list[str]:
    """Prompt lookup takes one prompt at a time, so it is left out of batches."""
    return [name for name in DEFAULT if settings.batch_size == 1 or not TRANSFORMERS.get(name)]


def _command() -> str:
    import shlex

    return shlex.join(["racer", *(argument for argument in sys.argv[1:] if argument != "--resume")])


def _tell(results: dict[str, Any], folder: Folder) -> None:
    """The overall figures, and where the rest is.

    :raises RacerError: nothing at all could be measured.
    """
    failures = results["failures"]
    if all(part["overall"]["questions"] == 0 for part in results["methods"].values()):
        raise RacerError(f"every trial failed; the first one: {failures[0]['error']}")
    console = Console(highlight=False)
    table = Table("method", box=None, header_style="bold")
    for heading in ("tokens/s", "vs none", "vs hf", "mean accepted", "identical"):
        table.add_column(heading, justify="right")
    for name, part in results["methods"].items():
        figures = part["overall"]
        table.add_row(
            escape(name),
            number(figures["tokens_per_second"]),
            ratio(figures["speedup_vs_none"]),
            ratio(figures["speedup_vs_hf"]),
            mean(figures["mean_accepted_tokens"]),
            percent(figures["identical_rate"]),
        )
    console.print(table)
    for what, answered in (("trials failed", False), ("trials went on without a plugin that failed", True)):
        if found := [failure["error"] for failure in failures if failure["answered"] is answered]:
            console.print(f"{len(found)} {what}; the first one: {escape(found[0])}", soft_wrap=True)
    console.print(f"The report is in {escape(str(folder.path / 'report.html'))}", soft_wrap=True)


# -- while it runs --------------------------------------------------------------------------------------------------


class Board:
    """Median tokens/s by group and method, as far as the run has come."""

    def __init__(self, methods: Sequence[Method], trials: Sequence[Trial]) -> None:
        self._methods = [method.name for method in methods]
        self._speeds: dict[tuple[str, str], list[float]] = defaultdict(list)
        self.failures = 0
        for trial in trials:
            self.add(trial)

    def add(self, trial: Trial) -> None:
        """Count a trial in."""
        if trial.measured is None:
            self.failures += 1
            return
        tokens = sum(map(len, trial.measured.tokens))
        self._speeds[trial.group, trial.method].append(tokens / trial.measured.seconds)

    def table(self) -> Table:
        """Groups by methods."""
        table = Table("tokens/s", *map(escape, self._methods), box=None, header_style="bold")
        for group in dict.fromkeys(group for group, _ in self._speeds):
            cells = [self._speeds.get((group, method)) for method in self._methods]
            table.add_row(escape(group), *(f"{statistics.median(cell):.1f}" if cell else "" for cell in cells))
        return table


@contextmanager
def _shown(bench: Bench, journal: Journal) -> Iterator[None]:
    """A live table and a bar on a terminal; elsewhere a line now and then."""
    console = Console(file=sys.stderr, highlight=False)
    board = Board(bench.methods, list(journal.trials.values()))
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=False),
        console=console,
        speed_estimate_period=600,
    )
    task = bar.add_task("trials", total=bench.total(), completed=len(journal.trials))
    if not console.is_terminal:
        bench.told = _lines(bench, journal, board)
        yield
        return
    # no thread that draws while somebody is measured
    with Live(Group(board.table(), bar), console=console, auto_refresh=False, transient=True) as live:

        def told(trial: Trial) -> None:
            board.add(trial)
            bar.advance(task)
            failed = f", {board.failures} failed" if board.failures else ""
            bar.update(task, description=f"{escape(trial.group)}{failed}")
            live.update(Group(board.table(), bar), refresh=True)

        bench.told = told
        yield


def _lines(bench: Bench, journal: Journal, board: Board) -> Any:
    """Where nobody watches: a line whenever all methods have answered a turn."""
    import time

    began, before, total = time.perf_counter(), len(journal.trials), bench.total()

    def told(trial: Trial) -> None:
        board.add(trial)
        done = len(journal.trials)
        if done % len(bench.methods) == 0:
            left = (time.perf_counter() - began) / (done - before) * (total - done)
            failed = f", {board.failures} failed" if board.failures else ""
            render.note(f"{done} of {total} trials ({trial.group}){failed}, about {left / 60:.0f} min left")

    return told
