"""``racer plugins``."""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from racer.registry import Offer


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: 'plugins' and 'broken', or 'model'.")
@click.option("--model", help="Say how this model is decoded instead: a folder, a .gguf file, a hub id, or 'default'.")
@click.option(
    "--tokens",
    type=click.IntRange(0, 2**31),
    default=0,
    help="With --model: for calls that take so many tokens, new ones included.",
)
def plugins(as_json: bool, model: str | None, tokens: int) -> None:
    """List every drafter, verifier and budget: exact or lossy, where it comes from, and its parameters.

    Parameters are shown with their defaults; 'racer generate --drafter' and configuration files set them. What could
    not be loaded is listed with the reason.

    \b
    Examples:
      racer plugins
      racer plugins --json
      racer plugins --model ./my-model --tokens 4096
    """
    if model is not None:
        _examine(model, tokens, as_json)
        return
    from racer.cli import render
    from racer.discovery import plugins as known

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # broken ones are part of the list
        offers, broken = known.load_all(), dict(known.broken)
    listed = [_described(offer, broken) for offer in offers]
    if as_json:
        render.print_json({"plugins": listed, "broken": broken})
    else:
        _print_table(listed, broken)


def _examine(name: str, tokens: int, as_json: bool) -> None:
    """Print how a model is decoded, and why not in a better way."""
    import attrs

    from racer.cli import render
    from racer.hf.examine import examine
    from racer.loading import models

    found = examine(models.load(None if name == "default" else name, dtype="fp32").model, tokens)
    if as_json:
        render.print_json({"model": attrs.asdict(found)})
    else:
        click.echo(str(found))


def _described(offer: Offer, broken: dict[str, str]) -> dict[str, Any]:
    """An offer as plain data. Why its factory cannot be imported, if so, is added to ``broken``."""
    parameters = []
    try:
        for name, taken in offer.parameters().items():
            needed = taken.default is taken.empty
            parameters.append({"name": name} | ({} if needed else {"default": _plain(taken.default)}))
    except Exception as error:  # whatever a plugin's module does
        broken[f"{offer.name} ({offer.origin})"] = f"{type(error).__name__}: {error}"
    told = {name: getattr(offer, name) for name in ("kind", "name", "summary", "exact", "origin")}
    return told | {"parameters": parameters}


def _plain(default: Any) -> Any:
    """As JSON can hold it."""
    if isinstance(default, tuple | list):
        return [_plain(part) for part in default]
    return default if default is None or isinstance(default, bool | int | float | str) else repr(default)


def _print_table(listed: list[dict[str, Any]], broken: dict[str, str]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("kind", "name", "output", "origin", "summary", "parameters"):
        table.add_column(heading)
    for offer in listed:
        output = "exact" if offer["exact"] else "[yellow]lossy[/]"
        parameters = " ".join(
            f"{taken['name']}={taken['default']!r}" if "default" in taken else taken["name"]
            for taken in offer["parameters"]
        )
        name, *others = (escape(text) for text in (offer["name"], offer["origin"], offer["summary"], parameters))
        table.add_row(offer["kind"], f"[bold]{name}[/]", output, *others)
    for name, reason in broken.items():
        table.add_row("[red]broken[/]", escape(name), "", "", f"[red]not loaded:[/] {escape(reason)}")
    console = Console(file=sys.stdout, highlight=False)
    if not console.is_terminal:  # nothing to fit into, so nothing is folded
        console.width = 10_000
    console.print(table)
