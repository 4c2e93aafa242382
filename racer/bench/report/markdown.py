"""Names and texts in Markdown, out of which nothing in them can break."""

from __future__ import annotations

import re
from typing import Any

from racer.bench.report.formats import DASH

_SPECIAL = re.compile(r"[\\`*\[\]<>#~&$]|(?<![^\W_])_|_(?![^\W_])")


def plain(text: Any, limit: int = 60) -> str:
    """One line of printable characters, cut at a limit; nothing for None."""
    if text is None:
        return ""
    line = " ".join("".join(char if char.isprintable() else " " for char in str(text)).split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def escape(text: Any, limit: int = 60) -> str:
    """Text that Markdown shows as it is; tables see to the pipes."""
    return _SPECIAL.sub(r"\\\g<0>", plain(text, limit)) or DASH


def code(text: Any, limit: int = 60) -> str:
    """A code span, whatever backticks the text has."""
    line = plain(text, limit)
    if not line:
        return DASH
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    pad = " " if len(fence) > 1 else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def fenced(text: Any) -> str:
    """A fenced block."""
    lines = [plain(line, 2000) for line in str(text).splitlines()]
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", "\n".join(lines))), default=0))
    return "\n".join([fence, *lines, fence])
