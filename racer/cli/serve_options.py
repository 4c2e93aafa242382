"""What ``racer serve`` was asked for, checked as far as that goes without torch."""

from __future__ import annotations

import os
import re
from urllib.parse import urlsplit

import attrs
import click

from racer.cli import options as checked
from racer.cli.model_options import EngineOptions

KEYS = "RACER_API_KEYS"
HOST = re.compile(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]")
LONGEST_NAME = 253
port = checked.number(int, lambda n: 0 <= n < 2**16, "a port from 1 to 65535, or 0 for any that is free")
seconds = checked.number(float, lambda s: 0 < s <= 1e6, "a number of seconds above 0 and up to a million")


def keys(ctx: click.Context, param: click.Parameter, typed: tuple[str, ...]) -> tuple[str, ...]:
    """What was typed, or else the environment's."""
    keys = typed or tuple(os.environ.get(KEYS, "").replace(",", " ").split())
    for key in keys:
        if not key or not key.isascii() or not key.isprintable() or " " in key:
            raise click.BadParameter("expected printable ASCII characters without spaces", ctx, param)
    if len(set(keys)) != len(keys):
        raise click.BadParameter("a key is given twice, and each is a tenant of its own", ctx, param)
    return keys


def origins(ctx: click.Context, param: click.Parameter, typed: tuple[str, ...]) -> tuple[str, ...]:
    """As browsers write them: no path, not even a slash."""
    for origin in typed:
        try:
            parts = urlsplit(origin)
            whole = parts.scheme in ("http", "https") and bool(parts.hostname) and origin.isprintable()
            whole = whole and f"{parts.scheme}://{parts.netloc}" == origin
        except ValueError:
            whole = False
        if origin != "*" and not whole:
            raise click.BadParameter(f"expected http://HOST[:PORT], https://... or *, not {origin!r}", ctx, param)
    return typed


def hosts(ctx: click.Context, param: click.Parameter, typed: tuple[str, ...]) -> tuple[str, ...]:
    """As they stand in the header ``Host``, without a port; in small letters, as that is compared."""
    for name in typed:
        if len(name) > LONGEST_NAME or not HOST.fullmatch(name):
            raise click.BadParameter(f"expected a host's name or address without a port, not {name!r}", ctx, param)
    return tuple(name.lower() for name in typed)


def printable(ctx: click.Context, param: click.Parameter, typed: str | None) -> str | None:
    """Text that neither is empty nor steers a terminal."""
    if typed is not None and (not typed.strip() or not typed.isprintable()):
        raise click.BadParameter(f"expected printable text, not {typed!r}", ctx, param)
    return typed


@attrs.frozen(kw_only=True)
class ServeOptions(EngineOptions):
    """The options of ``racer serve``."""

    host: str
    port: int
    served_name: str | None
    api_key: tuple[str, ...] = attrs.field(repr=False)
    max_tokens: int
    max_rows: int
    max_waiting: int
    max_new_tokens: int
    max_body: int
    timeout: float
    drain: float
    cors_origin: tuple[str, ...]
    allowed_host: tuple[str, ...]
    log_level: str
    max_connections: int
