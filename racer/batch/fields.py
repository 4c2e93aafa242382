"""The settings that a line may have, in OpenAI's names and in ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs

from racer.batch.lines import LineError
from racer.loading.detokenizer import LONGEST_STOP


@attrs.frozen(kw_only=True)
class Wanted:
    """What a line says about its answer; None where it leaves that to the run."""

    max_new_tokens: int | None = None
    temperature: float | None = None
    """0 is greedy."""
    top_p: float | None = None
    top_k: int | None = None
    """0: from all tokens."""
    min_p: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()


def _number(kind: type[int] | type[float], accepts: Callable[[Any], bool], words: str) -> Callable[[str, Any], Any]:
    """A number that passes a test; NaN passes none."""
    kinds = (int,) if kind is int else (int, float)

    def check(name: str, value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, kinds) or value != value or not accepts(value):
            raise LineError(f"{name!r} must be {words}, not {_shown(value)}")
        return kind(value)

    return check


def _stop(name: str, value: Any) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    good = isinstance(texts, list) and all(isinstance(text, str) and 0 < len(text) <= LONGEST_STOP for text in texts)
    if not good:
        expected = f"a text or a list of texts, none of them empty, of {LONGEST_STOP} characters at most"
        raise LineError(f"{name!r} must be {expected}, not {_shown(value)}")
    return tuple(texts)


_length = _number(int, lambda n: 1 <= n < 2**31, "a whole number from 1 to 2**31 - 1")

SETTINGS: dict[str, tuple[str, Callable[[str, Any], Any]]] = {
    "max_tokens": ("max_new_tokens", _length),
    "max_completion_tokens": ("max_new_tokens", _length),
    "max_new_tokens": ("max_new_tokens", _length),
    "temperature": (
        "temperature",
        _number(float, lambda t: t == 0 or 1e-6 <= t <= 1e6, "0 (greedy) or a number from 1e-6 to 1e6"),
    ),
    "top_p": ("top_p", _number(float, lambda p: 0 < p <= 1, "a number above 0 and at most 1")),
    "top_k": ("top_k", _number(int, lambda k: -1 <= k < 2**31, "a whole number from 1, or 0 or -1 for no limit")),
    "min_p": ("min_p", _number(float, lambda p: 0 <= p <= 1, "a number from 0 to 1")),
    "repetition_penalty": (
        "repetition_penalty",
        _number(float, lambda r: 1e-3 <= r <= 1e3, "a number from 0.001 to 1000"),
    ),
    "seed": ("seed", _number(int, lambda s: 0 <= s < 2**63, "a whole number from 0 to 2**63 - 1")),
    "stop": ("stop", _stop),
}
"""By the name in a line: the setting of ours, and its check."""

WITHOUT_EFFECT = {
    "metadata",
    "model",
    "parallel_tool_calls",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "store",
    "user",
}
"""Fields that change no answer: they are left alone."""

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "stream": (False,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "suffix": ("",),
}
"""Fields that are taken as long as they ask for nothing: with these values."""


def wanted(body: Mapping[str, Any], others: frozenset[str]) -> Wanted:
    """The settings in a body or a plain line. A field that is null is one that is not there.

    :param others: fields that are understood elsewhere.
    :raises LineError: a value out of range, or a field that would change the answer and is not supported.
    """
    found: dict[str, Any] = {}
    for name, value in body.items():
        if name in others or name in WITHOUT_EFFECT or value is None:
            continue
        if name in SETTINGS:
            target, check = SETTINGS[name]
            taken = check(name, value)
            if found.setdefault(target, taken) != taken:
                raise LineError(f"{name!r} contradicts another field of the same meaning: drop one")
        elif name not in NEUTRAL:
            raise LineError(
                f"field {_shown(name)} is not supported; there are {', '.join([*sorted(others), *SETTINGS])}"
            )
        elif not any(_same(value, neutral) for neutral in NEUTRAL[name]):
            raise LineError(f"{name!r} is supported only as {NEUTRAL[name][0]!r}, not {_shown(value)}")
    if found.get("top_k") == -1:
        found["top_k"] = 0
    return Wanted(**found)


def _same(value: Any, neutral: Any) -> bool:
    """Equal, and not by False being 0."""
    return isinstance(value, bool) == isinstance(neutral, bool) and bool(value == neutral)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
