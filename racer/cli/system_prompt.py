"""``--system``, of the commands that hold conversations."""

from __future__ import annotations

import click


def _as_text(ctx: click.Context, param: click.Parameter, typed: str | None) -> str | None:
    """Bytes that are no text are replaced, as no tokenizer takes them."""
    if typed is None:
        return None
    try:
        data = typed.encode(errors="surrogateescape")
    except UnicodeEncodeError:  # half a character that stands for no byte
        data = typed.encode(errors="replace")
    return data.decode(errors="replace")


system_option = click.option(
    "--system", callback=_as_text, metavar="TEXT", help="The system prompt of conversations that have none."
)
