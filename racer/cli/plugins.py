"""``racer plugins``."""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING

import attrs
import click

if TYPE_CHECKING:
    from racer.registry import Offer


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: 'plugins' and 'broken'.")
def plugins(as_json: bool) -> None:
    """List every drafter, verifier and budget: exact or lossy, and where it comes from.

    What could not be loaded is listed with the reason.

    \b
    Examples:
      racer plugins
      racer plugins --json
    """
    from racer.cli import render
    from racer.discovery import plugins as known

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # broken ones are part of the list
        offers = known.load_all()
    if as_json:
        fields = attrs.filters.exclude("factory")
        listed = [attrs.asdict(offer, filter=fields) for offer in offers]
        render.print_json({"plugins": listed, "broken": known.broken})
        return
    _print_table(offers, known.broken)


def _print_table(offers: list[Offer], broken: dict[str, str]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("kind", "name", "output", "origin", "summary"):
        table.add_column(heading)
    for offer in offers:
        output = "exact" if offer.exact else "[yellow]lossy[/]"
        table.add_row(offer.kind, f"[bold]{escape(offer.name)}[/]", output, escape(offer.origin), escape(offer.summary))
    for name, reason in broken.items():
        table.add_row("[red]broken[/]", escape(name), "", "", f"[red]not loaded:[/] {escape(reason)}")
    console = Console(file=sys.stdout, highlight=False)
    if not console.is_terminal:  # nothing to fit into, so nothing is folded
        console.width = 10_000
    console.print(table)
