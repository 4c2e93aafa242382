"""Whether an answer is right, where a question has one number for an answer (GSM8K, MGSM)."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

_NUMBER = re.compile(r"-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?")
_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")
_FINAL = re.compile(r"####\s*(\S+)\s*$")


def reference_number(reference: str | None) -> Decimal | None:
    """The number that a reference names: alone, behind GSM8K's ``####``, or in its last ``\\boxed{}``; else None."""
    text = (reference or "").strip()
    if final := _FINAL.search(text):
        text = final[1]
    elif boxed := _BOXED.findall(text):
        text = boxed[-1].strip()
    return _value(text) if _NUMBER.fullmatch(text) else None


def answered_number(answer: str) -> Decimal | None:
    """The number in the answer's last ``\\boxed{}``, or its last number anywhere; None if there is none."""
    boxed = [number for text in _BOXED.findall(answer) for number in _NUMBER.findall(text)]
    numbers = boxed or _NUMBER.findall(answer)
    return _value(numbers[-1]) if numbers else None


def is_right(answer: str, reference: str | None) -> bool | None:
    """Whether the answer's number is the reference's; None where the reference is no number."""
    wanted = reference_number(reference)
    return None if wanted is None else answered_number(answer) == wanted


def _value(text: str) -> Decimal | None:
    try:
        return Decimal(text.replace(",", ""))
    except InvalidOperation:
        return None
