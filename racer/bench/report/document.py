"""The report of a run: Markdown, the same as one HTML page, and the plots of both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from racer.bench.report import plots
from racer.bench.report.findings import findings, subtitle
from racer.bench.report.formats import percent
from racer.bench.report.page import page
from racer.bench.report.reading import Run, known
from racer.bench.report.tables import tables
from racer.bench.report.templating import render
from racer.bench.report.words import FAILURES_SHOWN
from racer.files import write_whole


def write_report(results: dict[str, Any], folder: Path) -> None:
    """Write ``report.md``, ``report.html`` and ``plots/*.svg``.

    :param results: what ``results.json`` has.
    """
    run, text = Run(results), markdown(results)
    pictures = {name: plots.draw(run, name) for name in plots.available(run)}
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    files = {f"plots/{name}.svg": picture for name, picture in pictures.items()}
    files |= {"report.md": text, "report.html": page(text, pictures)}
    for name, content in files.items():
        write_whole(folder / name, content)


def markdown(results: dict[str, Any]) -> str:
    """The text of the report."""
    run = Run(results)
    return render(
        "report.md.j2",
        run=run,
        subtitle=subtitle(run),
        share_done=_share_done(run),
        findings=findings(run),
        tables=tables(run),
        more_failures=len(run.failures) - FAILURES_SHOWN,
        plots={name: plots.PLOTS[name].alt for name in plots.available(run)},
    )


def _share_done(run: Run) -> str:
    done, total = (known(run.setup.get(f"trials_{name}")) for name in ("done", "total"))
    return f" ({percent(done / total)})" if done is not None and total else ""
