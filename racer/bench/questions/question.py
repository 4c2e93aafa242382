"""One question, draws from many, and their fingerprint."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Sequence

import attrs

from racer.bench.converter import plain
from racer.errors import ConfigError


@attrs.frozen
class Question:
    """One conversation: turns asked one after the other, from a ``source`` as the user named it."""

    question_id: int | str
    category: str
    group: str
    """What figures are reported by; the category is as in the file."""
    turns: tuple[str, ...]
    reference: str | None = None
    source: str = ""


def draw(questions: Sequence[Question], limit: int | None, seed: int) -> list[Question]:
    """At most ``limit`` questions of each group, the same ones whenever the seed is the same; None takes all.

    :raises ConfigError: a limit below 1.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"the limit must be at least 1 question a group, not {limit}")
    groups: dict[str, list[Question]] = {}
    for question in questions:
        groups.setdefault(question.group, []).append(question)
    rng, drawn = random.Random(seed), []
    for _, group in sorted(groups.items()):
        drawn += group if limit is None or limit >= len(group) else rng.sample(group, limit)
    return drawn


def digest(questions: Iterable[Question]) -> str:
    """A fingerprint of all fields in order: tells whether a resumed run has the same questions."""
    fields = [plain(question) for question in questions]
    return hashlib.sha256(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
