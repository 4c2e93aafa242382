"""What the user sees: text on standard output, everything about it on standard error."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn

if TYPE_CHECKING:
    from racer.cli.decoding import Comparison, Outcome, PromptRun
    from racer.loading.embedded import Progress as Told

_CONTROLS = dict.fromkeys([*range(9), *range(11, 32), *range(127, 160)])
"""Control characters but tab and newline: a model's text must not steer the terminal."""


def note(message: str) -> None:
    """One line on standard error."""
    click.echo(f"racer: {message}", err=True)


class TextSink:
    """Writes text as it comes; on a terminal, what was drafted is green."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._terminal = out.isatty()
        self._colour = self._terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

    def __call__(self, text: str, drafted: bool) -> None:
        if self._terminal:
            text = text.translate(_CONTROLS)
        if drafted and self._colour:
            text = click.style(text, fg="green")
        self._out.write(text)
        self._out.flush()


@contextmanager
def progress_bar() -> Iterator[Told]:
    """A bar for what happens once; where standard error is no terminal, a line for each stage."""
    console = Console(file=sys.stderr)  # this very stream: loaders are silenced by exchanging sys.stderr
    stages: dict[str, Any] = {}
    if not console.is_terminal:

        def tell(what: str, done: int, total: int) -> None:
            if what not in stages:
                note(f"{what} ...")
            stages[what] = True

        yield tell
        return
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[size]}"),
        console=console,
        transient=True,
    )

    def advance(what: str, done: int, total: int) -> None:
        if not stages:  # mostly there is nothing to show, and then nothing is written
            bars.start()
        if what not in stages:
            stages[what] = bars.add_task(what, total=None, size="")
        size = f"{done / 1e6:.0f} of {total / 1e6:.0f} MB" if total else ""
        bars.update(stages[what], completed=done, total=total or None, size=size)

    try:
        yield advance
    finally:
        bars.stop()


def summary(run: PromptRun, outcome: Outcome, comparison: Comparison | None) -> None:
    """The figures of a run, a line each on standard error."""
    stats, config = outcome.stats, run.plan.config
    mean = "no" if stats.steps == 0 else f"{stats.mean_accepted_tokens:.2f}"
    who = f"drafter {stats.drafter}, verifier {stats.verifier}"
    if config.seed is not None:
        who += f", seed {config.seed}"
    lines = [
        f"[bold]{stats.tokens_per_second:.1f} tokens/s[/], {mean} mean accepted tokens, {stats.steps} steps, "
        f"{stats.new_tokens} new tokens in {stats.seconds:.2f} s ({escape(who)})"
    ]
    if comparison:
        plain = comparison.plain.stats
        lines.append(
            f"[bold]{speedup(outcome, comparison):.2f}x[/] the speed of plain decoding "
            f"({plain.tokens_per_second:.1f} tokens/s, {plain.new_tokens} new tokens in {plain.seconds:.2f} s); "
            + _difference(comparison, run.loaded.dtype)
        )
        if not run.plan.exact:
            lines.append(
                f"verifier {escape(stats.verifier)} is lossy: its tokens may differ from those of plain decoding"
            )
    console = Console(file=sys.stderr, highlight=False, soft_wrap=True)
    for line in lines:
        console.print(line)


def _difference(comparison: Comparison, dtype: str) -> str:
    if comparison.first_difference is None:
        return "[green]the tokens are identical[/]"
    return (
        f"[yellow]the tokens differ[/] from new token {comparison.first_difference} on, where the plain model's two "
        f"best logits are {comparison.top2_gap:.3g} apart ({dtype})"
    )


def speedup(outcome: Outcome, comparison: Comparison) -> float:
    """By tokens per second, as the two may have given different numbers of tokens."""
    return outcome.stats.tokens_per_second / comparison.plain.stats.tokens_per_second


def report(run: PromptRun, outcome: Outcome, comparison: Comparison | None, text: str) -> dict[str, Any]:
    """All of it as plain data."""
    import torch
    import transformers

    stats, config = outcome.stats, run.plan.config
    data: dict[str, Any] = {
        "text": text,
        "token_ids": outcome.tokens,
        "prompt_tokens": run.prompt_tokens,
        "new_tokens": len(outcome.tokens),
        "steps": stats.steps,
        "accept_lengths": stats.accept_lengths[0],
        "mean_accepted_tokens": stats.mean_accepted_tokens,
        "mean_accepted_tokens_drafted": stats.mean_accepted_tokens_drafted,
        "seconds": stats.seconds,
        "tokens_per_second": stats.tokens_per_second,
        "drafter": stats.drafter,
        "verifier": stats.verifier,
        "exact": run.plan.exact,
        "model": run.loaded.name,
        "budget": config.budget,
        "dtype": run.loaded.dtype,
        "weights": run.loaded.weights,
        "device": str(run.loaded.model.device),
        "seed": config.seed,
        "max_new_tokens": run.limit,
        "milliseconds": stats.milliseconds,
        "drafted": dict(stats.drafted),
        "accepted": dict(stats.accepted),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    if comparison:
        data |= {
            "plain_seconds": comparison.plain.stats.seconds,
            "plain_token_ids": comparison.plain.tokens,
            "plain_tokens_per_second": comparison.plain.stats.tokens_per_second,
            "speedup": speedup(outcome, comparison),
            "identical": comparison.first_difference is None,
            "first_difference": comparison.first_difference,
            "top2_gap": comparison.top2_gap,
        }
    return data


def print_json(data: Any) -> None:
    """One JSON object on standard output, in ASCII, so that no terminal setting can damage it."""
    click.echo(json.dumps(_finite(data), allow_nan=False))


def _finite(data: Any) -> Any:
    """JSON has no NaN: None in its place."""
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, dict):
        return {name: _finite(value) for name, value in data.items()}
    return [_finite(value) for value in data] if isinstance(data, list) else data
