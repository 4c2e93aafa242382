"""Figures and names in Markdown: digits that mean something, and names that cannot break out of a table."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from racer.bench.reading import known

DASH = "—"
_SPECIAL = re.compile(r"[\\`*\[\]<>#~&$]|(?<![^\W_])_|_(?![^\W_])")

Format = Callable[[Any], str]


def plain(text: Any, limit: int = 60) -> str:
    """One line of printable characters, cut at a limit; nothing for None."""
    if text is None:
        return ""
    line = " ".join("".join(char if char.isprintable() else " " for char in str(text)).split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def escape(text: Any, limit: int = 60) -> str:
    """Text that Markdown shows as it is; ``table`` sees to the pipes."""
    return _SPECIAL.sub(r"\\\g<0>", plain(text, limit)) or DASH


def code(text: Any, limit: int = 60) -> str:
    """A code span, whatever backticks the text has."""
    line = plain(text, limit)
    if not line:
        return DASH
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    pad = " " if len(fence) > 1 else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def block(text: Any) -> str:
    """A fenced block."""
    lines = [plain(line, 2000) for line in str(text).splitlines()]
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", "\n".join(lines))), default=0))
    return "\n".join([fence, *lines, fence])


def table(header: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 1) -> str:
    """A table whose first ``texts`` columns are text, and the others figures."""
    ruler = ["---" if column < texts else "---:" for column in range(len(header))]
    return "\n".join("| " + " | ".join(map(_cell, row)) + " |" for row in [header, ruler, *rows])


def _cell(text: str) -> str:
    """A pipe ends a cell even in a code span."""
    return text.replace("|", r"\|")


def number(value: Any) -> str:
    """Three digits, or all of a whole number's."""
    found = known(value)
    if found is None:
        return DASH
    if abs(found) >= 1e9 or abs(found) < 1:
        return f"{found:.3g}"
    return f"{found:,.{max(0, 3 - len(str(int(abs(found)))))}f}"


def count(value: Any) -> str:
    """A whole number."""
    found = known(value)
    return DASH if found is None else f"{found:,.0f}"


def mean(value: Any) -> str:
    """Two decimals, as mean accepted tokens are given."""
    found = known(value)
    return DASH if found is None else f"{found:,.2f}"


def ratio(value: Any) -> str:
    """``1.43x``."""
    found = known(value)
    return DASH if found is None else f"{found:,.{2 if found < 10 else 1}f}x"


def percent(value: Any) -> str:
    """A share; nearly all is not called all, nor nearly none none."""
    found = known(value)
    if found is None:
        return DASH
    if found in (0, 1):
        return f"{found:.0%}".replace("%", " %")
    if 0 < found < 1 and not 0.0005 <= found < 0.9995:
        return "< 0.1 %" if found < 0.5 else "> 99.9 %"
    return f"{100 * found:.1f} %"


def duration(value: Any) -> str:
    """Seconds, or milliseconds below one."""
    found = known(value)
    if found is None:
        return DASH
    return f"{number(found)} s" if found >= 1 else f"{number(1000 * found)} ms"


def with_interval(value: Any, interval: tuple[float, float] | None, form: Format, strong: bool = False) -> str:
    """``1.43x (1.38-1.49)``; no interval where every draw would give the same."""
    text = form(value)
    if text == DASH:
        return text
    wide = interval is not None and set(interval) != {value}
    spread = f" ({'-'.join(form(end).removesuffix('x') for end in interval or ())})" if wide else ""
    return f"**{text}**{spread}" if strong else text + spread
