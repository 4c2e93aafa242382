"""An Aho-Corasick automaton over the n-grams of a growing text, in constant memory (RACER, section on retrieval).

Two properties make it simple. Every suffix of a window that ends at the current token is itself a window, so the set
of stored strings is closed under dropping the first token. And touching a string touches its prefixes after it and
its suffixes after those, so the least recently used node is always a leaf that is nobody's longest suffix: evicting
it leaves every failure link right. Failure links therefore never dangle and always lead to the string without its
first token.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Iterator, Sequence

from racer.errors import ConfigError


class Node:
    """A stored string: the tokens on the way from the automaton's root."""

    __slots__ = ("children", "count", "depth", "fail", "parent", "token")

    def __init__(self, parent: Node | None, token: int) -> None:
        self.parent = parent
        self.token = token
        self.depth: int = 0 if parent is None else parent.depth + 1
        self.count = 1
        """Occurrences since it was made; raised to what an extension has, so that it never rises with depth."""
        self.children: dict[int, Node] = {}
        self.fail: Node | None = None
        """The longest proper suffix that is stored; None at the root."""


class Automaton:
    """Counts of all n-grams up to ``ngram`` tokens, the ``max_nodes`` most recently seen.

    :raises ConfigError: ``ngram`` below 2, or ``max_nodes`` too few to hold the windows at one position twice over.
    """

    def __init__(self, ngram: int = 10, max_nodes: int = 10_000) -> None:
        if ngram < 2:
            raise ConfigError(f"ngram must be at least 2, not {ngram}")
        if max_nodes < ngram * (ngram + 1):
            raise ConfigError(
                f"max_nodes must be at least ngram * (ngram + 1) = {ngram * (ngram + 1)}, not {max_nodes}"
            )
        self.ngram = ngram
        self.max_nodes = max_nodes
        self.root = Node(None, -1)
        self._recency: OrderedDict[Node, None] = OrderedDict()
        """All nodes, the least recently touched first."""

    def __len__(self) -> int:
        return len(self._recency)

    def __iter__(self) -> Iterator[Node]:
        return iter(self._recency)

    def insert(self, recent: Sequence[int]) -> None:
        """Read one more token, the last of ``recent``: count the windows that end with it, of each length up to
        ``ngram``. ``recent`` are the last tokens of the text, ``ngram`` of them or the whole text if it is shorter.
        """
        chains: list[list[Node]] = []
        for start in range(len(recent) - 1, max(len(recent) - 1 - self.ngram, -1), -1):
            # shortest first: a failure link needs its target
            chains.append(self._count(recent[start:], suffix=chains[-1] if chains else []))
        for chain in reversed(chains):  # longest first, ends before beginnings: see the module's text
            for node in reversed(chain):
                self._recency.move_to_end(node)

    def _count(self, window: Sequence[int], suffix: list[Node]) -> list[Node]:
        """Count one window; its nodes. ``suffix`` are those of the window without its first token."""
        chain, node, known = [], self.root, True
        for place, token in enumerate(window):
            child = node.children.get(token)
            known = child is not None
            if child is None:
                child = self._make(node, token, fail=suffix[place - 1] if place else self.root)
            self._recency.move_to_end(child)  # out of the way of evictions while this token is read
            chain.append(child)
            node = child
        node.count += known
        for prefix in chain:  # one that was evicted and made anew has forgotten occurrences
            prefix.count = max(prefix.count, node.count)
        return chain

    def _make(self, parent: Node, token: int, fail: Node) -> Node:
        if len(self._recency) >= self.max_nodes:
            oldest, _ = self._recency.popitem(last=False)
            assert oldest.parent is not None  # nodes that are not the root have one
            del oldest.parent.children[oldest.token]
        node = parent.children[token] = Node(parent, token)
        node.fail = fail
        self._recency[node] = None
        return node

    def match(self, tokens: Sequence[int]) -> Node:
        """The node of the longest stored suffix of ``tokens``: the state that reading them leads to.

        Read afresh from the last ``ngram`` tokens, so that neither a miss nor an eviction can leave it stale.
        """
        state = self.root
        for token in tokens[-self.ngram :]:
            while token not in state.children and state.fail is not None:
                state = state.fail
            state = state.children.get(token, self.root)
        return state

    def borders(self, tokens: Sequence[int], min_depth: int = 2) -> list[Node]:
        """All stored suffixes of ``tokens`` with at least ``min_depth`` tokens, the longest first."""
        found, state = [], self.match(tokens)
        while state.fail is not None and state.depth >= min_depth:
            found.append(state)
            state = state.fail
        return found

    def continuations(self, tokens: Sequence[int]) -> Iterator[tuple[int, int]]:
        """What followed the borders of ``tokens``, the most frequent first, as ``(parent, token)``.

        Continuations are numbered from 1 in this order, 0 is the empty one; a parent always comes before its children,
        because frequency never rises with depth (so the search stops as soon as the caller does). A continuation's
        frequency is summed over the borders that know it: what fits a longer context counts more often.
        """
        order = 0
        heap: list[tuple[int, int, int, int, list[Node]]] = []

        def push(parent: int, nodes: list[Node]) -> None:
            nonlocal order
            follow: dict[int, list[Node]] = {}
            for node in nodes:
                for token, child in node.children.items():
                    follow.setdefault(token, []).append(child)
            for token, children in follow.items():
                order += 1
                heapq.heappush(heap, (-sum(child.count for child in children), order, parent, token, children))

        push(0, self.borders(tokens))
        number = 0
        while heap:
            _, _, parent, token, nodes = heapq.heappop(heap)
            number += 1
            yield parent, token
            push(number, nodes)
