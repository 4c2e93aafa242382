"""Standard input, output and error: closed, full, or of another encoding than expected."""

from __future__ import annotations

import codecs
import io
import os
import sys
from typing import Any

import click

MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16's, which is its beginning
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
"""Byte order marks, and what they say of the text behind them."""


def prepare() -> None:
    """Make the three streams safe to use.

    A file that is opened later must not come by the number of a stream that was closed, or it would be written into. A
    terminal that knows no emoji must not end the run.

    :raises click.ClickException: standard output is closed.
    """
    _fill_closed_numbers()
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # it lives as long as we do
    if sys.stdout is None:
        raise click.ClickException("standard output is closed: there is nowhere to write to")
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _fill_closed_numbers() -> None:
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free


def drop_what_cannot_be_written() -> None:
    """What waits to be written is written now, or never."""
    try:
        sys.stdout.flush()
    except OSError:
        drop(sys.stdout)


def drop(stream: Any) -> None:
    """Nothing more is written to standard output or error: the interpreter must not try again at its end."""
    try:
        number = stream.fileno()
    except (OSError, ValueError):
        return
    os.dup2(os.open(os.devnull, os.O_WRONLY), number)


def read_input() -> str:
    """All of standard input: UTF-8, or what its byte order mark says; bytes that are no text are replaced.

    :raises click.UsageError: it is closed, or text of two bytes a character without a mark.
    :raises OSError: it cannot be read.
    """
    if sys.stdin is None:
        raise click.UsageError("standard input is closed: give PROMPT as an argument")
    source: Any = getattr(sys.stdin, "buffer", sys.stdin)
    found = source.read()
    return found if isinstance(found, str) else decoded(found)


def decoded(data: bytes) -> str:
    """See :func:`read_input`."""
    for mark, encoding in MARKS:
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, errors="replace")
    if b"\0" in data[:1024]:
        raise click.UsageError("standard input holds NUL bytes, so it is no text in UTF-8: convert it first")
    return data.decode(errors="replace")
