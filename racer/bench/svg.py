"""One matplotlib figure as SVG text that reads well on light and dark pages, alone and inside HTML."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, MUTED, GRID, PAPER = "#1f2328", "#59636e", "#d1d9e0", "#ffffff"
"""Colours of a light page; matplotlib writes them into the elements, and a rule for dark pages repaints them."""
DARK = {INK: "#e6edf3", MUTED: "#9da7b3", GRID: "#30363d", PAPER: "#0d1117"}
FONTS = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'
WIDTH = 9.6
"""Inches of the axes; legends and labels come on top."""


@contextmanager
def style() -> Iterator[None]:
    """matplotlib's own settings and ours, not the user's: the same results give the same bytes anywhere."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # the browser has the glyph: text stays text
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(
            {
                "svg.fonttype": "none", "svg.hashsalt": "racer", "text.parse_math": False, "font.size": 9,
                "axes.edgecolor": MUTED, "axes.labelcolor": INK, "axes.titlesize": 9, "text.color": INK,
                "xtick.color": MUTED, "ytick.color": MUTED, "xtick.labelcolor": INK, "ytick.labelcolor": INK,
                "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True, "axes.grid": True,
                "grid.color": GRID, "grid.linewidth": 0.6, "axes.facecolor": "none", "figure.facecolor": PAPER,
                "savefig.facecolor": PAPER, "legend.frameon": False, "lines.linewidth": 1.6, "lines.markersize": 6.5,
            }
        )  # fmt: skip
        yield


def render(figure: Figure, name: str, alt: str) -> str:
    """The figure with room for all its labels.

    :param name: goes before every id, as plots in one page share its ids.
    """
    out = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(out, format="svg", bbox_inches="tight", pad_inches=0.12, metadata=nothing)
    text = out.getvalue()
    text = text[text.index("<svg") :].rstrip() + "\n"
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text)
    root = f'<svg id="plot-{name}" role="img" aria-label="{escape(alt)}"'
    return text.replace("<svg", root, 1).replace(">", f">\n{_css(f'plot-{name}')}", 1)


def _css(root: str) -> str:
    """Attribute selectors, as matplotlib writes inline styles; who knows no dark pages still draws a light plot.

    They name no ancestor: markers are clones in a tree of their own, which has none.
    """
    repaint = "\n".join(
        f'[style*="{what}: {light}"] {{ {what}: {dark} !important; }}'
        for light, dark in DARK.items()
        for what in ("fill", "stroke")
    )
    return (
        f"<style>\n#{root} text {{ font-family: {FONTS} !important; }}\n"
        f"@media (prefers-color-scheme: dark) {{\n{repaint}\n}}\n</style>\n"
    )
