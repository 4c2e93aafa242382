"""How the plots are drawn, by matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

from racer.bench.report import series
from racer.bench.report.formats import DASH, number, percent
from racer.bench.report.markdown import plain
from racer.bench.report.reading import PLAIN, STEP_PHASES, Run, filled
from racer.bench.report.series import Points
from racer.bench.report.svg import INK, MUTED, PAPER, WIDTH

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GREY = "#868e96"
PALETTE = (
    "#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#9a8700", "#7b5ea7", "#a0522d", "#7fb800",
    "#e0559a", "#3fa7a0",
)  # fmt: skip
"""Okabe and Ito's for colour-blind readers, without black and yellow, which a page may swallow; then more."""
PHASE_COLOURS = ("#ee8866", "#77aadd", "#44bb99", "#d6c04f", "#ee7fa0", "#a5a5a5")
MARKERS = "osD^vPX*<>"
LABEL = 24
"""Characters of a name that a plot shows."""


def colours(run: Run) -> dict[str, str]:
    """By method, the same in every plot."""
    palette = cycle(PALETTE)
    return {method: GREY if method == PLAIN else next(palette) for method in run.methods}


def _axes(figure: Figure, width: float, height: float) -> Axes:
    """Axes of this size in inches; what is around them makes the picture larger."""
    figure.set_size_inches(width, height)
    return figure.add_axes((0, 0, 1, 1))


def _name(text: Any) -> str:
    return plain(text, LABEL) or DASH


def _legend(axes: Axes, shown: Sequence[tuple[str, Any]], columns: int = 4) -> None:
    """Names are given here and not as an artist's label: matplotlib hides a label that starts with an underscore."""
    names, artists = zip(*shown, strict=True)
    axes.legend(
        artists, names, loc="lower left", bbox_to_anchor=(0, 1.01), ncols=columns, borderaxespad=0, handlelength=1.4
    )


def paint_speedups(run: Run, figure: Figure) -> None:
    gains, look, columns = series.gains(run), colours(run), run.columns
    axes = _axes(figure, min(WIDTH, max(4.5, 0.17 * (len(gains) + 1) * len(columns))), 3)
    width, shown = 0.84 / len(gains), []
    for nth, (method, bars) in enumerate(gains.items()):
        offset = (nth - (len(gains) - 1) / 2) * width
        places = [place + offset for place, _, _ in bars]
        heights = [value for _, value, _ in bars]
        shown.append((_name(method), axes.bar(places, heights, width * 0.9, color=look[method])))
        whiskers = [(at, *ends) for at, (_, _, ends) in zip(places, bars, strict=True) if ends]
        for at, low, high in whiskers:
            axes.vlines(at, low, high, color=INK, linewidth=0.9)
    axes.axhline(1, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    names = ["all" if group is None else _name(group) for group in columns]
    upright = 5.2 * max(map(len, names)) <= 72 * figure.get_figwidth() / len(names)  # points of a character
    turn: dict[str, Any] = {} if upright else {"rotation": 30, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(range(len(names)), names, **turn)
    axes.tick_params(axis="x", length=0)
    axes.grid(visible=False, axis="x")
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("speed against plain decoding")
    _legend(axes, shown)


def _lines(run: Run, axes: Axes, points: dict[str, Points]) -> None:
    look, shown = colours(run), []
    for method, marker in zip(run.methods, cycle(MARKERS), strict=False):
        if method in points:
            x, y = zip(*points[method], strict=True)
            (line,) = axes.plot(x, y, color=look[method], marker=marker, markeredgecolor=PAPER, markeredgewidth=0.5)
            shown.append((_name(method), line))
    _legend(axes, shown)


def paint_depths(run: Run, figure: Figure) -> None:
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    axes = _axes(figure, WIDTH, 3)
    _lines(run, axes, series.depths(run))
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    axes.set_xlabel("drafted tokens kept, at least")
    axes.set_ylabel("share of steps")


def paint_splits(run: Run, figure: Figure) -> None:
    splits = series.splits(run)
    axes = _axes(figure, WIDTH, 0.5 + 0.32 * len(splits))
    rows = range(len(splits))
    left, shown = [0.0] * len(splits), []
    for phase, colour in zip(STEP_PHASES, PHASE_COLOURS, strict=True):
        spent = [split.get(phase, 0.0) for split in splits.values()]
        shown.append((phase, axes.barh(rows, spent, 0.68, left=left, color=colour)))
        left = [a + b for a, b in zip(left, spent, strict=True)]
    for row, whole in enumerate(left):
        axes.annotate(f"{number(whole)} ms", (whole, row), (5, 0), textcoords="offset points", va="center")
    axes.set_yticks(rows, [_name(method) for method in splits])
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.invert_yaxis()
    axes.set_xlim(0, 1.12 * max(left) or 1)
    axes.set_xlabel("milliseconds of a step")
    _legend(axes, shown, 6)


def paint_costs(run: Run, figure: Figure) -> None:
    from matplotlib.ticker import NullFormatter, StrMethodFormatter

    axes = _axes(figure, WIDTH, 3)
    _lines(run, axes, series.costs(run))
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(bottom=0)
    axes.set_xlabel("nodes of a step")
    axes.set_ylabel("milliseconds, median")


def paint_reliabilities(run: Run, figure: Figure) -> None:
    from matplotlib.ticker import PercentFormatter

    found, look = series.reliabilities(run), colours(run)
    across = min(4, len(found))
    down = -(-len(found) // across)
    figure.set_size_inches(2.4 * across, 2.6 * down)
    for nth, (method, kinds) in enumerate(found.items()):
        row, column = divmod(nth, across)
        axes = figure.add_axes((column / across, 1 - (row + 0.8) / down, 0.86 / across, 0.72 / down))
        axes.plot((0, 1), (0, 1), color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
        for (kind, reliability), line in zip(kinds.items(), ("-", ":"), strict=False):
            points = filled(reliability)
            x, y, counts = zip(*points, strict=True)
            hollow = PAPER if line == ":" else look[method]
            sizes = [6 + 34 * count / max(counts) for count in counts]
            axes.plot(x, y, color=look[method], linestyle=line, linewidth=1.2)
            tag = f"{kind}, ECE {percent(reliability.get('ece'))}"
            axes.scatter(x, y, sizes, hollow, edgecolors=look[method], linewidths=1, label=tag, zorder=3)
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
        axes.tick_params(labelleft=column == 0)
        axes.set_title(_name(method), loc="left", fontweight="bold")
        axes.set_xlabel("predicted")
        axes.set_ylabel("accepted" if column == 0 else "")
        axes.legend(loc="upper left", fontsize=7.5, handletextpad=0.2)
