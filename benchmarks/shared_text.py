"""Several drafters decode one text together: the model is asked once for each continuation that any of them guesses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import attrs
import numpy as np
import torch
from numpy.typing import NDArray

import racer
from racer.core.model_runner import ForwardPlan, ModelRunner, PromptPiece
from racer.core.packed_weights import pack
from racer.engine.top_tokens import top_tokens
from racer.hf.processors import ProcessorPipeline
from racer.step.draft_tree import DraftTree
from racer.step.request import Request, add_token, end
from racer.step.verdict import HostVerdict, Verdict
from racer.step.view import StepView

PIECE = 256
"""Continuations scored by one forward pass, beside those that they hang on."""
ROUND = 32
"""Forward passes are as wide as a multiple of it: matrix kernels are made, and kept, for each width."""
PLAIN = ProcessorPipeline([], 1)
LEAST = 8
"""So many tokens are committed at once; until then they are scored again with all that stands below them."""


class Continuations:
    """What the model thinks after a prompt and whatever was guessed to follow it: a trie, whose node 0 is the first
    token of the answer. Its greedy text is one text, whatever order things are scored in.

    :param prompt: ``[1, P]`` token ids.
    """

    def __init__(self, decoder: racer.Decoder, prompt: torch.Tensor, limit: int) -> None:
        plan, self.needs, width = decoder.support.plan, decoder.strategies.needs, prompt.shape[1]
        assert plan is not None
        self.runner = self.make_runner(decoder, plan)
        self.cache = self.runner.open([0], width + limit + 2 * PIECE)
        [self.prompt] = self.runner.prefill(prompt, self.cache, width, keep=max(self.needs.prompt, 1))
        self.prompt_top = self._top(self.prompt.logits)
        self.tokens, self.parent = [int(self.prompt_top[0][-1, 0])], [-1]
        self.known: dict[int, tuple[NDArray[np.int64], NDArray[np.float32]]] = {}
        """By node: its best next tokens ``[k]``, best first, and their probabilities."""
        self._children: dict[tuple[int, int], int] = {}
        self._base = 0
        """The node of the greedy text before which all is in the cache."""
        self._last_position = width + limit - 1

    def make_runner(self, decoder: racer.Decoder, plan: ForwardPlan) -> ModelRunner:
        """Who scores continuations."""
        return ModelRunner(decoder.model, plan, pack(decoder.model, "auto"))

    def child(self, node: int, token: int) -> int:
        """The node for ``token`` after ``node``."""
        found = self._children.setdefault((node, token), len(self.tokens))
        if found == len(self.tokens):
            self.tokens.append(token)
            self.parent.append(node)
        return found

    def best(self, node: int) -> int:
        """The token that comes after a scored node."""
        return int(self.known[node][0][0])

    def score(self, nodes: Iterable[int]) -> None:
        """Ask the model about ``nodes``, as far as it was not asked before."""
        wanted = sorted({node for node in nodes if node not in self.known})
        for start in range(0, len(wanted), PIECE):
            self._score(wanted[start : start + PIECE])

    def commit(self, root: int) -> None:
        """No node will be asked about that does not stand below ``root``, a node of the greedy text, or is it."""
        path, node = [], root
        while node != self._base:
            node = self.parent[node]
            path.append(node)
        if len(path) >= LEAST:  # they were scored before, mostly in another forward pass
            self._base, text = root, torch.tensor([[self.tokens[node] for node in reversed(path)]])
            tree = DraftTree.chain(text, torch.tensor([len(path)]))
            self.runner.forward(tree, self.cache, self._last_position)
            self.cache.append(len(path))

    def _score(self, wanted: Sequence[int]) -> None:
        taken: set[int] = set()
        for node in wanted:
            while node not in taken and node != self.parent[self._base]:
                taken.add(node)
                node = self.parent[node]
        order = sorted(taken)  # parents are older than their children
        columns = {node: column for column, node in enumerate(order)}
        parents = [-1, *(columns[self.parent[node]] for node in order[1:])]
        padding = [0] * (-len(order) % ROUND)
        tokens = torch.tensor([[self.tokens[node] for node in order] + padding])
        tree = DraftTree(tokens, torch.tensor([parents + padding]), torch.tensor([len(order)]))
        ids, probs = self._top(self.runner.forward(tree, self.cache, self._last_position))
        for node in wanted:
            self.known[node] = ids[columns[node]], probs[columns[node]]
        self.scored({node: columns[node] for node in wanted})

    def scored(self, columns: dict[int, int]) -> None:
        """The runner has just scored these nodes, in these columns."""

    def _top(self, logits: torch.Tensor) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        found = top_tokens(self.needs, PLAIN, False, logits)
        assert found.ids is not None
        assert found.probs is not None
        return found.ids[0].numpy(), found.probs[0].numpy()


@attrs.define(eq=False)
class Row:
    """One drafter's request."""

    drafter: racer.Racer
    request: Request
    vocab_size: int
    node: int = 0
    """Its root among the continuations."""
    nodes: list[int] = attrs.field(factory=list)
    """Of its tree."""
    steps: int = 0
    view: Any = None
    tree: Any = None

    def read_prompt(self, prompt: PromptPiece, ids: NDArray[np.int64], probs: NDArray[np.float32]) -> None:
        """Observe the last piece of the prompt, as a chain that is all accepted, and begin with the first token."""
        width = prompt.tokens.shape[1]
        self.tree = DraftTree.chain(prompt.tokens, torch.tensor([width]))
        self.view = attrs.evolve(self._view(), places=(prompt.start,))
        self._observe(list(range(width)), int(ids[-1, 0]), ids, probs)
        add_token(self.request, int(ids[-1, 0]))

    def draft(self, shared: Continuations, budget: int) -> list[int]:
        """Grow the next tree; its nodes among the continuations."""
        self.view = self._view()
        self.tree = self.drafter.draft(self.view, budget if self.request.remaining > 1 else 1)
        self.nodes = [self.node]
        columns = zip(self.tree.parent[0, 1:].tolist(), self.tree.tokens[0, 1:].tolist(), strict=True)
        for parent, token in columns:
            self.nodes.append(shared.child(self.nodes[parent], token))
        return self.nodes

    def keep(self, shared: Continuations, ends: frozenset[int]) -> None:
        """Keep the longest right path of the tree, which is scored, and learn from it."""
        column = {node: column for column, node in enumerate(self.nodes)}
        path, place, text = [0], self.node, []
        while True:
            text.append(shared.best(place))
            place = shared.child(place, text[-1])
            if place not in column:
                break
            path.append(column[place])
        self.node = place
        for token in text:
            add_token(self.request, token)
            if token in ends or self.request.remaining <= 0:
                end(self.request)
                break
        self.steps += 1
        known = [shared.known[node] for node in self.nodes]
        self._observe(path, text[-1], np.stack([ids for ids, _ in known]), np.stack([probs for _, probs in known]))

    def _view(self) -> StepView:
        place = len(self.request.tokens) - 1
        ends = torch.tensor([[self.request.tokens[-1]], [place]])
        return StepView((self.request,), (True,), ends[0], ends[1], self.vocab_size, PLAIN, False)

    def _observe(self, path: Sequence[int], then: int, ids: NDArray[np.int64], probs: NDArray[np.float32]) -> None:
        tree, padded = self.tree, torch.zeros(1, self.tree.width, dtype=torch.long)
        padded[0, : len(path)] = torch.tensor(path)
        verdict = Verdict(padded, torch.tensor([len(path)]), torch.tensor([then]))
        parts = verdict.parts(tree, torch.zeros(1, dtype=torch.long))
        parts |= {"top_ids": torch.from_numpy(ids)[None], "top_probs": torch.from_numpy(probs)[None]}
        verdict.host = HostVerdict(**{name: part.numpy() for name, part in parts.items()})
        self.drafter.observe(self.view, tree, verdict)


@torch.no_grad()
def decode(
    decoder: racer.Decoder,
    prompt: torch.Tensor,
    drafters: Sequence[racer.Racer],
    budget: int,
    limit: int,
    ends: frozenset[int],
) -> tuple[int, list[int]]:
    """Let all drafters decode at most ``limit`` tokens after ``prompt [1, P]``; how many, and the steps of each."""
    shared = Continuations(decoder, prompt, limit)
    rows = [
        Row(drafter, Request(tuple(prompt[0].tolist()), limit=limit), decoder.support.vocab_size)
        for drafter in drafters
    ]  # fmt: skip
    for row in rows:
        row.drafter.opened(row.request)
        row.read_prompt(shared.prompt, *shared.prompt_top)
        if row.request.tokens[-1] in ends:
            end(row.request)
    while active := [row for row in rows if not row.request.done]:
        behind = min(active, key=lambda row: len(row.request.tokens))
        shared.commit(behind.node)
        shared.score([node for row in active for node in row.draft(shared, budget)])
        for row in active:
            row.keep(shared, ends)
    for row in rows:
        row.drafter.closed(row.request)
    [emitted] = {tuple(row.request.emitted) for row in rows}
    return len(emitted) - 1, [row.steps for row in rows]
