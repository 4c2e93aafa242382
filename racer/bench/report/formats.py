"""Figures as they are read: digits that mean something."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from racer.bench.report.reading import known

DASH = "—"
Format = Callable[[Any], str]


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
