"""Retrieval tree (RACER, arXiv 2604.14885): exact patterns of the text so far, and of the requests before."""

from __future__ import annotations

from racer.step.draft_tree import DraftTree
from racer.step.request import Request
from racer.step.tree_builder import TreeBuilder
from racer.step.verdict import Verdict
from racer.step.view import StepView
from racer.strategies.automaton import Automaton
from racer.strategies.base import Drafter


class Retrieval(Drafter):
    """Drafts the most frequent continuations of the current context's stored suffixes.

    :param ngram: longest pattern, in tokens.
    :param max_nodes: size of the automaton; the least recently seen patterns make room.
    :raises ConfigError: see :class:`racer.strategies.automaton.Automaton`.
    """

    name = "retrieval"

    def __init__(self, ngram: int = 10, max_nodes: int = 10_000) -> None:
        self.automaton = Automaton(ngram, max_nodes)
        self._read: dict[int, int] = {}
        """How many tokens of each open request the automaton has read."""

    def opened(self, request: Request) -> None:
        self._read[request.id] = 0
        self._catch_up(request)

    def grow(self, request: Request, tree: TreeBuilder) -> None:
        nodes = [0]
        # a full-length border has nothing below it, so the context is one token shorter
        context = request.tokens[-(self.automaton.ngram - 1) :]
        for parent, token in self.automaton.continuations(context):
            if tree.full:
                return
            node = tree.add(nodes[parent], token)
            assert node is not None
            nodes.append(node)

    def observe(self, view: StepView, tree: DraftTree, verdict: Verdict) -> None:
        for request in view.requests:
            self._catch_up(request)

    def closed(self, request: Request) -> None:
        self._read.pop(request.id, None)

    def _catch_up(self, request: Request) -> None:
        for end in range(self._read[request.id] + 1, len(request.tokens) + 1):
            self.automaton.insert(request.tokens[max(0, end - self.automaton.ngram) : end])
        self._read[request.id] = len(request.tokens)
