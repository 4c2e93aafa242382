"""An engine that verifies chains, or trees, as others do: rows that come, move, are cut, preempted, and end."""

from __future__ import annotations

import random
from collections.abc import Hashable

import attrs
import numpy as np

from racer.drafting import Draft, Session, Told

VOCAB = 50


def next_token(text: list[int]) -> int:
    """What the model says after a text: of the last three tokens, and now and then of the whole text."""
    mixed = hash(tuple(text[-3:])) if len(text) % 7 else hash(tuple(text))
    return mixed % VOCAB


def best_tokens(text: list[int], k: int) -> tuple[list[int], list[float]]:
    """Its best next tokens, of which the first is the one."""
    first = next_token(text)
    return [(first + 11 * rank) % VOCAB for rank in range(k)], [0.6 * 0.5**rank for rank in range(k)]


def plain(prompt: list[int], new: int) -> list[int]:
    text = list(prompt)
    for _ in range(new):
        text.append(next_token(text))
    return text


@attrs.define
class Row:
    text: list[int]
    end: int
    draft: Draft | None = None


@attrs.define
class ChainEngine:
    """Decodes rows with a session's drafts, whatever happens to them."""

    session: Session
    random: random.Random
    cues: bool = True
    rows: dict[Hashable, Row] = attrs.field(factory=dict)
    steps: int = 0

    def add(self, key: Hashable, prompt: list[int], new: int) -> None:
        self.rows[key] = Row(list(prompt), len(prompt) + new)
        self.session.open(key, prompt)

    def preempt(self, key: Hashable) -> None:
        """It is computed anew, from all its tokens."""
        row = self.rows[key]
        row.draft = None
        self.session.open(key, row.text)

    def cancel(self, key: Hashable) -> None:
        del self.rows[key]
        self.session.close(key)

    def step(self, keys: list[Hashable]) -> None:
        """One pass over these rows, in this order; some drafts are cut, or not scored at all."""
        told = [self._scored(key) for key in keys]
        self.steps += 1
        drafts = self.session.step(told, milliseconds=20.0 + self.random.random())
        for key, draft in zip(keys, drafts, strict=True):
            row = self.rows[key]
            row.draft = draft
            if len(row.text) >= row.end:
                self.cancel(key)

    def _scored(self, key: Hashable) -> Told:
        row = self.rows[key]
        tokens, parents = [row.text[-1]], [-1]
        if row.draft is not None:
            kept = self.random.choice([len(row.draft), len(row.draft), len(row.draft) // 2, 0])
            tokens += row.draft.tokens[:kept].tolist()
            parents += (row.draft.parents[:kept] + 1).tolist()
        prefixes = [row.text]
        for node in range(1, len(tokens)):
            prefixes.append([*prefixes[parents[node]], tokens[node]])
        at, emitted = 0, []
        while True:
            right = next_token(prefixes[at])
            emitted.append(right)
            near = [node for node in range(1, len(tokens)) if parents[node] == at and tokens[node] == right]
            if not near or len(row.text) + len(emitted) >= row.end:
                break
            at = near[0]
        row.text = row.text + emitted
        if not self.cues:
            return Told(key, emitted)
        best = [best_tokens(prefix, self.session.needs.top_k or 1) for prefix in prefixes]
        ids, probs = (np.array([one[part] for one in best]) for part in range(2))
        return Told(key, emitted, tokens, parents, ids, probs)
