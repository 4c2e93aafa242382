"""``racer``: one best-first tree over everything that was said and everything that the model thought."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import attrs
import numpy as np
import torch

from racer.errors import ConfigError
from racer.request import HostVerdict, Needs, Request, StepView, Verdict
from racer.strategies.base import Drafter
from racer.strategies.context import history, state, voices
from racer.strategies.context.blends import Blends
from racer.strategies.context.cues import Cues
from racer.strategies.context.growth import Desk, Growth, grow
from racer.strategies.context.hashing import NO_TOKEN, context_of
from racer.strategies.context.hints import Hints
from racer.strategies.context.history import GRAM, History
from racer.strategies.context.learning import calibrate, observe
from racer.strategies.context.memory import Memory, Row
from racer.strategies.context.odds import SIZE, Odds
from racer.strategies.context.ready import make_ready
from racer.strategies.context.start import fitted_odds
from racer.tree import DraftTree

OWN_TOKENS = 65_536
"""Tokens of its own text that a row searches for matches, the latest ones."""
LEAST = 1e-5
"""No node is worth its place that is accepted less often."""


@attrs.define(eq=False)
class _Open:
    """A request that is being decoded."""

    row: Row
    read: int
    """Tokens of it that stand in ``row.text``."""
    drafted: Growth | None = None
    """The last tree, until its verdict is known, ..."""
    count: int = 0
    """... and its nodes."""


class Racer(Drafter):
    """Retrieval and copied logits in one tree (RACER, arXiv 2604.14885), each guess at its estimated worth.

    Every place that the model scores, accepted, rejected or prompt, leaves its best next tokens and their
    probabilities under the last 1 to 4 tokens (*cues*) and in running averages (*blends*). The texts themselves are
    searched for the longest matches of what was just said. All of these *voices*, and some of the row's own latest
    steps, name candidates for each node; what a voice is worth when it speaks like that is learned as decoding
    goes on, and mixed into one estimate per candidate. The tree takes the candidates in the order of their estimated
    acceptance probability, which is its ``score``.

    Memory is constant: ``4 s (7 + 8 k) + (3 s / 2 + 1) (4 + 8 k) + 16 h`` bytes for k = ``top_k``, s = ``slots`` and
    h = ``history`` (54 MiB by default), and while a request is open ``32 (P + new)`` bytes for its own text.

    :param top_k: next tokens kept of each scored position.
    :param slots: places for cues of each context length, a power of two from 2.
    :param history: tokens of ended texts that are kept, a power of two from 16.
    :param odds: where counting starts; fitted to other text if None (:mod:`racer.strategies.context.start`).
    :param silent: voices that are not listened to (:mod:`racer.strategies.context.voices`), for ablations.
    :raises ConfigError: a size is out of range.
    """

    name = "racer"

    def __init__(
        self,
        *,
        top_k: int = 16,
        slots: int = 2**16,
        history: int = 2**19,
        odds: Odds | None = None,
        silent: Iterable[int] = (),
    ) -> None:
        for name, size, least in (("slots", slots, 2), ("history", history, 16)):
            if size < least or size & (size - 1):
                raise ConfigError(f"{name} must be a power of two from {least}, not {size}")
        if not 1 <= top_k <= 16:
            raise ConfigError(f"top_k must be from 1 to 16, not {top_k}")
        make_ready()
        heard = np.ones(voices.VOICES, np.bool_)
        heard[list(silent)] = False
        self.needs = Needs(top_k=top_k, probs=True, prompt=True)
        self.memory = Memory(
            Cues.of(slots, top_k),
            Blends.of(slots // 2, top_k),
            History.of(history),
            fitted_odds() if odds is None else odds,
            heard,
        )
        self._top_k = top_k
        self._total = np.empty(SIZE, np.float32)
        self._open: dict[int, _Open] = {}
        self._desks: dict[int, Desk] = {}

    def opened(self, request: Request) -> None:
        text = History.of(min(len(request.prompt) + min(request.limit, OWN_TOKENS), OWN_TOKENS))
        self._open[request.id] = _Open(
            Row(text, History.of(len(text.tokens)), Hints.of(self._top_k, int(self.memory.cues.asked[0]))), 0
        )
        self.memory.cues.asked[0] += 1

    def draft(self, view: StepView, budget: int) -> DraftTree:
        counts = [
            self._grow(request, budget, view.vocab_size) if active else 1
            for request, active in zip(view.requests, view.active, strict=True)
        ]
        shape = len(counts), max(counts)
        tokens, parent, score = np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.zeros(shape, np.float32)
        for row, (request, count) in enumerate(zip(view.requests, counts, strict=True)):
            tokens[row, 0] = request.tokens[-1]
            if count > 1:
                drafted = self._open[request.id].drafted
                assert drafted is not None
                tokens[row, :count] = drafted.tokens[:count]
                parent[row, :count] = drafted.parent[:count]
                score[row, :count] = drafted.score[:count]
        return DraftTree(
            tokens=torch.from_numpy(tokens),
            parent=torch.from_numpy(parent),
            count=torch.tensor(counts),
            score=torch.from_numpy(score),
            source=torch.zeros(shape, dtype=torch.long),
            sources=(self.name,),
        )

    def _grow(self, request: Request, budget: int, vocab_size: int) -> int:
        """Grow one row's tree and keep it until its verdict; its nodes."""
        entry = self._open[request.id]
        self._read(entry, request)
        if budget not in self._desks:
            self._desks = {budget: Desk.of(budget, self._top_k)}
        entry.drafted = Growth.of(budget)
        root = context_of(request.tokens, len(request.tokens))
        entry.count = grow(self.memory, entry.row, root, vocab_size, LEAST, entry.drafted, self._desks[budget])
        return entry.count

    def _read(self, entry: _Open, request: Request) -> None:
        """Append the tokens that are new since the last step to the row's own text."""
        if new := request.tokens[entry.read :]:
            history.append(entry.row.text, np.array(new, np.int32), GRAM)
            history.append(entry.row.singles, np.array(new, np.int32), 1)
            entry.read += len(new)

    def observe(self, view: StepView, tree: DraftTree, verdict: Verdict) -> None:
        host, positions = verdict.host, view.places
        assert host is not None
        for row, (request, active) in enumerate(zip(view.requests, view.active, strict=True)):
            if active and host.count[row]:
                self._learn(request, host, row, positions[row])

    def _learn(self, request: Request, host: HostVerdict, row: int, position: int) -> None:
        entry, nodes = self._open[request.id], int(host.count[row])
        drafted, entry.drafted = entry.drafted, None
        tokens, parent = host.tokens[row, :nodes], host.parent[row, :nodes]
        accepted = np.zeros(nodes, np.bool_)
        path = host.path[row, : host.length[row]]
        accepted[path] = True
        score = np.ones(nodes, np.float32)
        if drafted is not None and _is_head(drafted, tokens, parent):
            calibrate(
                self.memory.odds,
                entry.row.hints,
                drafted,
                entry.count,
                accepted,
                int(path[-1]),
                int(host.next_token[row]),
                self._total,
            )
            score = drafted.score[:nodes]
        assert host.top_probs is not None
        observe(
            self.memory,
            entry.row.hints,
            context_of(request.tokens, position + 1),
            np.ascontiguousarray(tokens),
            np.ascontiguousarray(parent),
            score,
            accepted,
            host.top_ids[row, :nodes, : self._top_k].astype(np.int32),
            np.ascontiguousarray(host.top_probs[row, :nodes, : self._top_k]),
        )

    def save(self, path: str | Path, fingerprint: str) -> None:
        """Write what was learned to a file; see :func:`racer.strategies.context.state.save`."""
        state.save(self.memory, path, fingerprint)

    def load(self, path: str | Path, fingerprint: str) -> None:
        """Take over what was saved; see :func:`racer.strategies.context.state.load`."""
        state.load(self.memory, path, fingerprint)

    def closed(self, request: Request) -> None:
        if self._open.pop(request.id, None):
            history.append(self.memory.past, np.array([*request.tokens, NO_TOKEN], np.int32), GRAM)


def _is_head(drafted: Growth, tokens: np.ndarray, parent: np.ndarray) -> bool:
    """Whether the scored tree is the beginning of the drafted one; a plugin may have changed it."""
    nodes = len(tokens)
    if nodes > len(drafted.tokens):
        return False
    same = (drafted.tokens[:nodes] == tokens).all() and (drafted.parent[1:nodes] == parent[1:]).all()
    return bool(same)
