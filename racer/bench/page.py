"""The report as one HTML page that needs nothing else: no script, no other file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from itertools import pairwise
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict

STYLE = """\
:root {
  color-scheme: light dark;
  --ink: #1f2328; --muted: #59636e; --line: #d1d9e0; --paper: #ffffff; --band: #f6f8fa; --link: #0550ae;
  --warn: #9a6700; --warn-paper: #fff8c5;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e6edf3; --muted: #9da7b3; --line: #30363d; --paper: #0d1117; --band: #161b22; --link: #79b8ff;
    --warn: #d29922; --warn-paper: #272115;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-padding-top: 1rem; }
body {
  margin: 0 auto; padding: 2rem clamp(1rem, 3vw, 2.5rem) 4rem; max-width: 80rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
h1, h2 { line-height: 1.25; overflow-wrap: anywhere; text-wrap: balance; }
h1 { font-size: clamp(1.5rem, 1.1rem + 1.8vw, 2.1rem); margin: 0 0 .25rem; letter-spacing: -.01em; }
h1 + p { color: var(--muted); max-width: none; }
h2 { font-size: 1.3rem; margin: 2.75rem 0 .75rem; padding-top: 1rem; border-top: 1px solid var(--line); }
p, ul, blockquote { max-width: 46rem; margin: 0 0 1rem; overflow-wrap: anywhere; }
p:has(> .plot) { max-width: none; }
ul { padding-left: 1.25rem; }
nav { margin: 0 0 1.5rem; font-size: .9rem; line-height: 1.9; }
nav a { color: var(--link); text-decoration: none; margin-right: 1rem; white-space: nowrap; }
nav a:hover, nav a:focus { text-decoration: underline; }
blockquote { margin-left: 0; padding: .75rem 1rem; border-left: 4px solid var(--warn); background: var(--warn-paper); }
blockquote p { margin: 0; }
code { font: .875em/1.4 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
p code, li code { background: var(--band); border-radius: .25rem; padding: .1em .25em; }
pre { overflow-x: auto; background: var(--band); border: 1px solid var(--line); border-radius: .375rem; padding: 1rem; }
.table, .plot { display: block; overflow-x: auto; margin: 0 0 1.25rem; }
.table:focus-visible, .plot:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
.plot svg { display: block; max-width: max(100%, 46rem); height: auto; }
table { border-collapse: separate; border-spacing: 0; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .4rem .7rem; border-bottom: 1px solid var(--line); vertical-align: top; text-align: left; }
th { border-bottom: 2px solid var(--line); vertical-align: bottom; font-weight: 600; }
th { max-width: 12rem; overflow-wrap: break-word; }
td[style*="right"] { white-space: nowrap; }
td:not([style]) { min-width: 5rem; overflow-wrap: anywhere; }
td:last-child:not([style]) { min-width: 14rem; }
th:first-child, td:first-child {
  position: sticky; left: 0; background: var(--paper); white-space: nowrap;
}
@media (max-width: 48rem) {
  th:first-child, td:first-child { white-space: normal; min-width: 8rem; max-width: 38vw; overflow-wrap: anywhere; }
}
small { font-size: inherit; white-space: nowrap; }
td small { display: block; font-size: .9em; color: var(--muted); }
tbody tr:hover td { background: var(--band); }
@media print { nav { display: none; } .table, .plot { overflow: visible; } .plot svg { max-width: 100%; } }
"""
_INTERVAL = re.compile(r"\([\d.,]+-[\d.,]+\)")


def page(text: str, pictures: dict[str, str]) -> str:
    """The whole page.

    :param text: the report's Markdown. HTML in it is shown, not obeyed.
    :param pictures: SVG text by the name of the image that it stands for.
    """
    reader = MarkdownIt("commonmark", {"html": False}, renderer_cls=_Renderer).enable("table")
    tokens = reader.parse(text)
    headings = _anchors(tokens)
    body = reader.renderer.render(tokens, reader.options, {"pictures": pictures})
    links = "\n".join(f'<a href="#{anchor}">{escape(title)}</a>' for anchor, title in headings)
    split = body.find("<h2")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(_title(tokens))}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f'{body[:split]}<nav aria-label="Sections">\n{links}\n</nav>\n{body[split:]}</main>\n</body>\n</html>\n'
    )


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


class _Renderer(RendererHTML):
    """Tables that scroll, intervals, and plots in place of links to them. Its methods are named after token types."""

    def table_open(self, *_: Any) -> str:
        return '<div class="table" role="region" aria-label="Table" tabindex="0"><table>\n'

    def table_close(self, *_: Any) -> str:
        return "</table></div>\n"

    def text(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        """An interval never breaks across lines, and in tables gets one of its own."""
        return _INTERVAL.sub(r"<small>\g<0></small>", super().text(tokens, idx, options, env))

    def image(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        name = str(tokens[idx].attrs["src"]).removeprefix("plots/").removesuffix(".svg")
        return f'<span class="plot" role="region" aria-label="Plot" tabindex="0">{env["pictures"][name]}</span>'
