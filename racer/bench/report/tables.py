"""The tables of the report: what is in their cells. How they look is up to the templates."""

from __future__ import annotations

from collections.abc import Callable

from racer.bench.report.findings import SPEEDUP, speedup
from racer.bench.report.formats import DASH, Format, count, duration, mean, number, percent, ratio, with_interval
from racer.bench.report.markdown import code, escape
from racer.bench.report.reading import HF, PLAIN, STEP_PHASES, Run, known
from racer.bench.report.words import Table, failures, setup

DEPTHS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16)


def tables(run: Run) -> dict[str, Table | None]:
    """All tables of a run by name; None where there is nothing to tell."""
    return {
        "overall": overall(run),
        "medians": medians(run),
        "speedups": by_group(run, SPEEDUP, ratio, without=(PLAIN,)),
        "accepted": by_group(run, "mean_accepted_tokens", mean),
        "acceptance": acceptance(run),
        "split": split(run),
        "nodes": nodes(run),
        "calibration": calibration(run),
        "identity": identity(run),
        "quality": quality(run),
        "failures": failures(run),
        "setup": setup(run),
    }


def overall(run: Run) -> Table:
    """One line a method."""
    best = _best(run, SPEEDUP)
    header = [
        "method", "tokens/s", "speed against `none`", "speed against `hf`", "MAT", "identical", "first token",
        "peak memory, MiB", "failures",
    ]  # fmt: skip
    rows = [
        [
            code(method),
            _estimate(run, method, "tokens_per_second", number),
            speedup(run, method, strong=method == best),
            speedup(run, method, HF),
            _estimate(run, method, "mean_accepted_tokens", mean),
            percent(run.value(method, "identical_rate")),
            duration(run.value(method, "first_token_seconds")),
            number(run.value(method, "peak_memory_mib")),
            count(run.value(method, "failures")),
        ]
        for method in run.methods
    ]
    return Table(header, rows)


def medians(run: Run) -> Table:
    """The same by medians, which an odd question does not move, and what was counted."""
    columns: dict[str, tuple[str, Format]] = {
        "median tokens/s": ("tokens_per_second_median", number),
        "median speed against `none`": (f"{SPEEDUP}_median", ratio),
        "median speed against `hf`": (f"speedup_vs_{HF}_median", ratio),
        "questions": ("questions", count),
        "new tokens": ("new_tokens", count),
        "steps": ("steps", count),
        "MAT of steps that drafted": ("mean_accepted_tokens_drafted", mean),
    }
    return _figures(run, columns)


def by_group(run: Run, figure: str, form: Format, without: tuple[str, ...] = ()) -> Table:
    """Methods against groups, the best of each column in bold."""
    columns = run.columns
    best = {group: _best(run, figure, group) for group in columns}
    rows = [
        [code(method), *(_estimate(run, method, figure, form, group, method == best[group]) for group in columns)]
        for method in run.methods
        if method not in without
    ]
    return Table(["method", *("all" if group is None else escape(group) for group in columns)], rows)


def acceptance(run: Run) -> Table | None:
    """Share of steps that keep at least so many drafted tokens; None if no step kept any."""
    shares = {method: run.depths(method) for method in run.methods}
    deepest = max(map(len, shares.values()), default=0)
    depths = [depth for depth in DEPTHS if depth <= deepest]

    def share(method: str, depth: int) -> str:
        found = shares[method]
        if depth <= len(found):
            return percent(found[depth - 1])
        return percent(0 if run.figures(method).get("acceptance_by_depth") is not None else None)

    rows = [[code(method), *(share(method, depth) for depth in depths)] for method in run.methods if shares[method]]
    return Table(["method", *map(str, depths)], rows) if depths else None


def split(run: Run) -> Table | None:
    """Milliseconds of a step by phase; None if not measured."""
    rows = []
    for method in run.methods:
        spent, first = run.split(method), known((run.figures(method).get("milliseconds") or {}).get("prefill"))
        if not spent and first is None:
            continue
        whole = sum(spent.values())
        overhead = 1 - spent["forward"] / whole if whole and "forward" in spent else None
        phases = [number(spent.get(phase)) for phase in STEP_PHASES]
        rows.append(
            [code(method), *phases, number(whole if spent else None), percent(overhead), number(first)],
        )
    return Table(["method", *STEP_PHASES, "whole step", "all but forward", "prefill"], rows) if rows else None


def nodes(run: Run) -> Table:
    """How many nodes were drafted, and how many of them for nothing."""

    def wasted(method: str) -> float | None:
        drafted, lost = run.value(method, "drafted_nodes"), run.value(method, "wasted_nodes")
        return lost / drafted if drafted and lost is not None else None

    columns: dict[str, tuple[str, Format]] = {
        "nodes per step": ("nodes_per_step", number),
        "drafted": ("drafted_nodes", count),
        "wasted": ("wasted_nodes", count),
    }
    return _figures(run, columns, {"share wasted": lambda method: percent(wasted(method))})


def identity(run: Run) -> Table:
    """Which answers are those of plain decoding, and how near a tie the others part."""
    columns: dict[str, tuple[str, Format]] = {
        "identical": ("identical_rate", percent),
        "answers that differ": ("divergences", count),
        "gap at the first difference, median": ("divergence_gap_median", number),
        "largest gap": ("divergence_gap_max", number),
    }
    return _figures(run, columns, without=(PLAIN,))


def calibration(run: Run) -> Table | None:
    """Expected calibration errors; None if no drafter gives scores."""
    rows = [
        [code(method), escape(kind), percent(found.get("ece")), count(found.get("count"))]
        for method in run.methods
        for kind, found in run.reliability(method).items()
    ]
    return Table(["method", "judged", "ECE", "nodes"], rows, texts=2) if rows else None


def quality(run: Run) -> Table | None:
    """Right answers; None if none was checked."""

    def right(method: str, group: str | None) -> str:
        score = run.figures(method, group).get("score") or {}
        hits, asked = known(score.get("right")), known(score.get("asked"))
        return DASH if hits is None or not asked else f"{count(hits)}/{count(asked)} ({percent(hits / asked)})"

    checked = [g for g in [None, *run.groups] if any(right(method, g) != DASH for method in run.methods)]
    rows = [[code(method), *(right(method, group) for group in checked)] for method in run.methods]
    return Table(["method", *("all" if g is None else escape(g) for g in checked)], rows) if checked else None


def _figures(
    run: Run,
    columns: dict[str, tuple[str, Format]],
    more: dict[str, Callable[[str], str]] | None = None,
    without: tuple[str, ...] = (),
) -> Table:
    more = more or {}
    rows = [
        [
            code(method),
            *(form(run.value(method, figure)) for figure, form in columns.values()),
            *(made(method) for made in more.values()),
        ]
        for method in run.methods
        if method not in without
    ]
    return Table(["method", *columns, *more], rows)


def _estimate(run: Run, method: str, figure: str, form: Format, group: str | None = None, strong: bool = False) -> str:
    return with_interval(run.value(method, figure, group), run.interval(method, figure, group), form, strong)


def _best(run: Run, figure: str, group: str | None = None) -> str | None:
    values = {m: value for m in run.methods if (value := run.value(m, figure, group)) is not None}
    return max(values, key=lambda method: values[method], default=None)
