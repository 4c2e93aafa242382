"""The plots of the report. matplotlib is imported only when one is drawn."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs

from racer.bench.report import charts, series
from racer.bench.report.reading import Run
from racer.bench.report.svg import style, to_svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@attrs.frozen
class Plot:
    """How a plot is drawn, and whether there is anything to draw."""

    alt: str
    data: Callable[[Run], Any]
    """Empty if there is nothing."""
    paint: Callable[[Run, Figure], None]


def available(run: Run) -> list[str]:
    """Names of the plots that the run has data for."""
    return [name for name, plot in PLOTS.items() if plot.data(run)]


def draw(run: Run, name: str) -> str:
    """One plot as SVG text."""
    from matplotlib.figure import Figure

    with style():
        figure = Figure()
        PLOTS[name].paint(run, figure)
        return to_svg(figure, name, PLOTS[name].alt)


PLOTS = {
    "speedup": Plot("Speed against plain decoding by method and group", series.gains, charts.paint_speedups),
    "depth": Plot("Share of steps that keep at least so many drafted tokens", series.depths, charts.paint_depths),
    "time": Plot("Milliseconds of a step by phase and method", series.splits, charts.paint_splits),
    "cost": Plot("Median time of a step by its nodes", series.costs, charts.paint_costs),
    "reliability": Plot(
        "Accepted share against predicted chance, by method", series.reliabilities, charts.paint_reliabilities
    ),
}
