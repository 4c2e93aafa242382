"""The report as one HTML page that needs nothing else: no script, no other file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict

from racer.bench.report.templating import macros, render

_INTERVAL = re.compile(r"\([\d.,]+-[\d.,]+\)")


def page(text: str, pictures: dict[str, str]) -> str:
    """The whole page.

    :param text: the report's Markdown. HTML in it is shown, not obeyed.
    :param pictures: SVG text by the name of the image that it stands for.
    """
    reader = _reader()
    tokens = reader.parse(text)
    headings = _anchors(tokens)
    first = next((place for place, token in enumerate(tokens) if token.tag == "h2"), len(tokens))
    opening, sections = (
        reader.renderer.render(part, reader.options, {"pictures": pictures})
        for part in (tokens[:first], tokens[first:])
    )
    return render("page.html.j2", title=_title(tokens), headings=headings, opening=opening, sections=sections)


def _reader() -> MarkdownIt:
    """Markdown with tables that scroll, intervals, and plots in place of links to them."""
    reader, elements = MarkdownIt("commonmark", {"html": False}).enable("table"), macros("elements.html.j2")

    def opened(*_: Any) -> str:
        return str(elements.table_open())

    def closed(*_: Any) -> str:
        return str(elements.table_close())

    def text(it: RendererHTML, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        """An interval never breaks across lines, and in tables gets one of its own."""
        return _INTERVAL.sub(
            lambda found: str(elements.interval(found[0])), RendererHTML.text(it, tokens, idx, options, env)
        )

    def image(_: RendererHTML, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        name = str(tokens[idx].attrs["src"]).removeprefix("plots/").removesuffix(".svg")
        return str(elements.plot(env["pictures"][name]))

    for kind, rule in {"table_open": opened, "table_close": closed, "text": text, "image": image}.items():
        reader.add_render_rule(kind, rule)
    return reader


def _anchors(tokens: Sequence[Token]) -> list[tuple[str, str]]:
    """Give the second-level headings ids; ids and titles."""
    found = []
    for opening, inline in pairwise(tokens):
        if opening.type == "heading_open" and opening.tag == "h2":
            anchor = inline.content.lower().replace(" ", "-")
            opening.attrSet("id", anchor)
            found.append((anchor, inline.content))
    return found


def _title(tokens: Sequence[Token]) -> str:
    """The first heading as it reads."""
    return next("".join(part.content for part in token.children or []) for token in tokens if token.type == "inline")
