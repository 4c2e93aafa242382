"""Interrupts at every point of a call."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any


def interrupted_at(place: int, call: Callable[[], Any], files: tuple[Path, ...], *, fine: bool = False) -> bool:
    """Call, and raise ``KeyboardInterrupt`` at the point of that number in these files; whether there was one.

    :param fine: whether points are Python's instructions, not lines.
    """
    names, passed = {str(file) for file in files}, 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal passed
        if frame.f_code.co_filename not in names:
            return None
        frame.f_trace_opcodes = fine
        passed += 1
        if passed == place:
            raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except KeyboardInterrupt:
        if passed != place:
            raise
    finally:
        sys.settrace(before)
    return passed >= place


def points(attempt: Callable[[int], bool], step: int = 1) -> Iterator[int]:
    """Numbers of points, as long as ``attempt`` says that there was one."""
    place = 1
    while attempt(place):
        yield place
        place += step
