"""Search in plain lists, which the automaton is held against."""

from __future__ import annotations


def occurrences(text: list[int], pattern: list[int]) -> list[int]:
    """Indices where ``pattern`` ends in ``text``."""
    size = len(pattern)
    return [start + size - 1 for start in range(len(text) - size + 1) if text[start : start + size] == pattern]


def longest_suffix(text: list[int], context: list[int]) -> int:
    """Length of the longest suffix of ``context`` that occurs in ``text``."""
    sizes = range(min(len(context), len(text)), 0, -1)
    return next((size for size in sizes if occurrences(text, context[-size:])), 0)
