"""``racer``: one best-first tree over all texts so far and all that the model predicted."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from numpy.typing import NDArray

from racer.errors import ConfigError
from racer.step.draft_tree import DraftTree
from racer.step.request import Request
from racer.step.verdict import Verdict
from racer.step.view import Needs, StepView
from racer.strategies.base import Drafter
from racer.strategies.context import hash_table, history, state
from racer.strategies.context.compile_ahead import ContextKernels, context_kernels
from racer.strategies.context.estimator import Estimator
from racer.strategies.context.features import FEATURES
from racer.strategies.context.fitted import fitted_estimator
from racer.strategies.context.growth import GrownTree, GrowScratch
from racer.strategies.context.hashing import NO_TOKEN
from racer.strategies.context.history import GRAM, History
from racer.strategies.context.learning import LearnScratch, Scored
from racer.strategies.context.memory import Memory, Row
from racer.strategies.context.recent import Recent
from racer.strategies.context.running_means import RunningMeans
from racer.strategies.context.top_k_table import TopKTable

MAX_OWN_TOKENS = 65_536
"""Tokens of its own text that a row searches for matches, the latest ones."""
MIN_SCORE = 1e-5
"""Nodes that are accepted less often are not worth their place."""
NO_TOKENS = np.empty(0, np.int32)


@attrs.define(eq=False)
class _OpenRequest:
    """A request that is being decoded."""

    row: Row
    tree: GrownTree
    """The last tree."""
    read: int = 0
    """Tokens of the request that stand in ``row.text``."""
    drafted: int = 0
    """Nodes of the last tree, until its verdict is known; else 0."""

    def tree_for(self, budget: int) -> GrownTree:
        """Where its next tree grows, of up to ``budget`` nodes."""
        if budget > len(self.tree.tokens):
            self.tree = GrownTree.of(budget)
        return self.tree

    def unread(self, request: Request, end: int) -> NDArray[np.int32]:
        """The tokens before ``end`` that are to be read; they count as read."""
        if end <= self.read:
            return NO_TOKENS
        new = np.array(request.tokens[self.read : end], np.int32)
        self.read = end
        return new


class Racer(Drafter):
    """Retrieval and copied logits in one tree (RACER, arXiv 2604.14885), each guess at its estimated probability.

    Every position that the model scores, accepted, rejected or prompt, leaves its top k next tokens and their
    probabilities under the last 1 to 4 tokens (the *top-k table*) and in *running means*. The texts themselves are
    searched for the longest matches of the last tokens. All of these, and some of the row's own latest steps, list
    candidates for each node. What each of them knows of a candidate is a *feature*; an *estimator*, which learns as
    decoding goes on, turns a candidate's features into one probability. The tree takes the candidates in the order of
    their estimated acceptance probability, which is its ``score``.

    Memory is constant: ``11 s / 2 (8 + 8 k) + 16 h`` bytes for k = ``top_k``, s = ``slots`` and h = ``history``
    (52 MiB by default), and while a request is open ``32 (P + new)`` bytes for its own text; and once a process, numba
    and the machine code that it makes or loads (117 MiB on Linux).

    :param top_k: next tokens kept of each scored position.
    :param slots: entries of the top-k table for each context length, a power of two from 2.
    :param history: tokens of ended texts that are kept, a power of two from 16.
    :param prompt: of so many of a prompt's last positions the top k are kept (of all prompts of a batch together). Of
        older ones they are worth 1 to 2 % of accepted tokens, less than scoring them takes on a CPU; as text, all of
        the prompt is searched.
    :param estimator: where learning starts; fitted to other text if None (:mod:`racer.strategies.context.fitted`).
    :param silent: features that are not used (:mod:`racer.strategies.context.features`), for ablations.
    :raises ConfigError: a size is out of range.
    :raises StateError: the package's own start was fitted to other features.
    :raises ValueError: ``estimator`` of other shapes.
    """

    name = "racer"
    saves = True
    drafts_chains = True

    def __init__(
        self,
        *,
        top_k: int = 15,
        slots: int = 2**16,
        history: int = 2**19,
        prompt: int = 64,
        estimator: Estimator | None = None,
        silent: Iterable[int] = (),
    ) -> None:
        for name, size, least in (("slots", slots, 2), ("history", history, 16)):
            if size < least or size & (size - 1):
                raise ConfigError(f"{name} must be a power of two from {least}, not {size}")
        if not 1 <= top_k <= 16:
            raise ConfigError(f"top_k must be from 1 to 16, not {top_k}")
        if prompt < 0:
            raise ConfigError(f"prompt must be a number of positions from 0, not {prompt}")
        context_kernels()
        enabled = np.ones(FEATURES, np.bool_)
        enabled[list(silent)] = False
        self.needs = Needs(top_k=top_k, probs=True, prompt=prompt, optional=True)
        self.memory = Memory(
            TopKTable.of(slots, top_k),
            RunningMeans.of(slots // 2, top_k),
            History.of(history),
            fitted_estimator() if estimator is None else Estimator.of(**estimator._asdict()),
            enabled,
        )
        self._top_k = top_k
        self._open: dict[int, _OpenRequest] = {}
        self._grow_scratch = GrowScratch.of(1, top_k)
        self._learn_scratch = LearnScratch.of(1, top_k)

    @property
    def _kernels(self) -> ContextKernels:
        return context_kernels()

    def __getstate__(self) -> dict[str, Any]:
        """What a copy or a file of it holds: a table's ``reals`` are its ``words``, and need not be there twice."""
        memory, none = self.memory, np.empty((0, 0), np.float32)
        memory = memory._replace(top_k=memory.top_k._replace(reals=none), means=memory.means._replace(reals=none))
        return self.__dict__ | {"memory": memory}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Of a copy: a table's ``reals`` are its ``words`` again."""
        memory = state["memory"]
        state["memory"] = memory._replace(
            top_k=TopKTable(*hash_table.copy(memory.top_k.words), memory.top_k.requests),
            means=RunningMeans(*hash_table.copy(memory.means.words)),
        )
        self.__dict__.update(state)

    def opened(self, request: Request) -> None:
        text = History.of(min(len(request.prompt) + min(request.limit, MAX_OWN_TOKENS), MAX_OWN_TOKENS))
        recent = Recent.of(self._top_k, int(self.memory.top_k.requests[0]))
        self._open[request.id] = _OpenRequest(Row(text, History.of(len(text.tokens)), recent), GrownTree.of(1))
        self.memory.top_k.requests[0] += 1

    def draft(self, view: StepView, budget: int) -> DraftTree:
        scratch = self._grow_scratch
        if budget > len(scratch.depth):
            scratch = GrowScratch.of(budget, self._top_k)
            self._grow_scratch = scratch  # another thread may put a smaller one there
        batch = np.zeros((4, len(view.requests), budget), np.int64)  # tokens, parents, sources, bits of scores
        reals, counts = batch.view(np.float64), [1] * len(view.requests)
        for row, request in enumerate(view.requests):
            batch[0, row, 0] = request.tokens[-1]
            if view.active[row] and budget > 1:
                entry = self._open[request.id]
                tree, new = entry.tree_for(budget), entry.unread(request, len(request.tokens))
                counts[row] = entry.drafted = self._kernels.grow(
                    self.memory, entry.row, new, budget, view.chain, view.vocab_size, MIN_SCORE, tree, scratch,
                    batch, reals, row,
                )  # fmt: skip
        if (width := max(counts)) < budget:
            batch = batch[:, :, :width]
        tokens, parent, source, bits = torch.from_numpy(batch).unbind()
        count = torch.from_numpy(np.array(counts, np.int64))  # in less time than torch makes a tensor of a list
        return DraftTree(tokens, parent, count, bits.view(torch.float64), source, (self.name,))

    def observe(self, view: StepView, tree: DraftTree, verdict: Verdict) -> None:
        host = verdict.host
        assert host is not None
        assert host.top_probs is not None
        scratch = self._learn_scratch
        if host.tokens.shape[1] > len(scratch.depth):
            scratch = self._learn_scratch = LearnScratch.of(host.tokens.shape[1], self._top_k)
        scored = Scored(  # machine code takes these types, and no others
            np.ascontiguousarray(host.tokens, np.int64),
            np.ascontiguousarray(host.parent, np.int64),
            np.ascontiguousarray(host.path, np.int64),
            np.ascontiguousarray(host.next_token, np.int64),
            np.ascontiguousarray(host.top_ids, np.int64),
            np.ascontiguousarray(host.top_probs, np.float32),
        )
        counts, lengths = host.count.tolist(), host.length.tolist()
        for row, (request, place, nodes) in enumerate(zip(view.requests, view.places, counts, strict=True)):
            if not (view.active[row] and nodes):
                continue
            entry = self._open[request.id]
            new, drafted, entry.drafted = entry.unread(request, place + 1), entry.drafted, 0
            learned = self._kernels.learn(
                self.memory, entry.row, new, entry.tree, drafted, scored, row, nodes, lengths[row], scratch
            )
            if not learned:
                path = scored.path[row, : lengths[row]].tolist()
                raise ValueError(f"accepted are the columns {path}, of a tree of {nodes} nodes")

    def save(self, path: str | Path, fingerprint: str) -> None:
        """Write what was learned to a file; see :func:`racer.strategies.context.state.save`."""
        state.save(self.memory, path, fingerprint)

    def load(self, path: str | Path, fingerprint: str) -> None:
        """Take over what was saved; see :func:`racer.strategies.context.state.load`."""
        state.load(self.memory, path, fingerprint)

    def closed(self, request: Request) -> None:
        if self._open.pop(request.id, None):
            history.append(self.memory.past, np.array([*request.tokens, NO_TOKEN], np.int32), GRAM)
