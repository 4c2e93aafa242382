"""The report's templates."""

from __future__ import annotations

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from racer.bench.report.formats import count
from racer.bench.report.markdown import escape, fenced


@cache
def environment() -> Environment:
    """HTML escapes what is put into it. Markdown does not: values go through ``markdown`` or another filter."""
    made = Environment(
        loader=PackageLoader(__package__ or ""),
        autoescape=select_autoescape(["html.j2"], default=False),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters |= {"count": count, "fenced": fenced, "markdown": escape}
    return made


def render(template: str, **values: Any) -> str:
    """One template, filled in."""
    return environment().get_template(template).render(values)


def macros(template: str) -> Any:
    """The macros of a template as functions."""
    return environment().get_template(template).module
