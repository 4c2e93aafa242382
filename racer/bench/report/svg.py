"""matplotlib figures as SVG text that reads well on light and dark pages, alone and inside HTML."""

from __future__ import annotations

import io
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from racer.bench.report.templating import render

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, MUTED, GRID, PAPER = "#1f2328", "#59636e", "#d1d9e0", "#ffffff"
"""Colours of a light page; matplotlib writes them into the elements, and a rule for dark pages repaints them."""
DARK = {INK: "#e6edf3", MUTED: "#9da7b3", GRID: "#30363d", PAPER: "#0d1117"}
FONTS = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'
WIDTH = 9.6
"""Inches of the axes; legends and labels come on top."""


NAMESPACES = {"": "http://www.w3.org/2000/svg", "xlink": "http://www.w3.org/1999/xlink"}
for _short, _address in NAMESPACES.items():
    ET.register_namespace(_short, _address)


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


def to_svg(figure: Figure, name: str, alt: str) -> str:
    """The figure with room for all its labels.

    :param name: goes before every id, as plots in one page share its ids.
    """
    out = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(out, format="svg", bbox_inches="tight", pad_inches=0.12, metadata=nothing)
    root = ET.fromstring(out.getvalue())
    for element in root.iter():
        _prefix(element, f"{name}-")
    root.attrib |= {"id": f"plot-{name}", "role": "img", "aria-label": alt}
    # attribute selectors, as matplotlib writes inline styles; who knows no dark pages still draws a light plot. They
    # name no ancestor: markers are clones in a tree of their own, which has none
    sheet = ET.Element(f"{{{NAMESPACES['']}}}style")
    sheet.text = "\n" + render("plot.css.j2", root=f"plot-{name}", fonts=FONTS, colours=DARK)
    sheet.tail = root.text
    root.insert(0, sheet)
    return ET.tostring(root, encoding="unicode") + "\n"


def _prefix(element: ET.Element, prefix: str) -> None:
    """Put a prefix before an element's id, and before the ids that its attributes refer to."""
    for key, value in element.attrib.items():
        if key == "id":
            element.set(key, prefix + value)
        elif key.endswith("href"):
            element.set(key, value.replace("#", f"#{prefix}", 1))
        else:
            element.set(key, re.sub(r"url\(#", f"url(#{prefix}", value))
