"""The drafter: what followed the end of the text in your corpus, most frequent first."""

from __future__ import annotations

import heapq
from pathlib import Path

from racer.errors import ConfigError
from racer.step.draft_tree import DraftTree
from racer.step.request import Request
from racer.step.tree_builder import TreeBuilder
from racer.step.view import Needs, StepView
from racer.strategies.base import Drafter
from racer_datastore.format import DatastoreError
from racer_datastore.index import Index
from racer_datastore.tokens import Tokenizer, fingerprint


class Datastore(Drafter):
    """Looks the longest suffix of the text up in an index of a corpus and drafts the trie of what followed it there.
    After REST (He et al., arXiv 2311.08252).

    A node's score is the share of the sampled places that go through it, times ``m / (m + d)`` at depth d, where m
    tokens of context matched: a short match is not believed far. The tree takes the best nodes first.

    Memory: the file, ``(w + 4) * n`` bytes (n tokens of w = 2 or 4 bytes), up to 256 MiB; of larger ones, which are
    mapped, only the operating system's page cache, which holds what lookups touch. Nothing is learned while decoding.

    :param path: an index file, built by ``racer-datastore build`` with the tokenizer of the model.
    :param tokenizer: if given, the index must have been built with its vocabulary.
    :param max_match: longest context to look up, in tokens; no more than the index's depth.
    :param min_match: shortest.
    :param samples: places to look at, evenly spread over all that match.
    :param max_draft: longest continuation, in tokens.
    :param verify: compare the file's checksum, see :class:`racer_datastore.Index`.
    :raises DatastoreError: the file cannot be used, or belongs to another tokenizer.
    :raises ConfigError: a number is out of range.
    """

    name = "datastore"
    needs = Needs(host=False)

    def __init__(
        self,
        path: str | Path,
        *,
        tokenizer: Tokenizer | None = None,
        max_match: int = 16,
        min_match: int = 2,
        samples: int = 64,
        max_draft: int = 10,
        verify: bool = True,
    ) -> None:
        for setting, value in (("min_match", min_match), ("samples", samples), ("max_draft", max_draft)):
            if value < 1:
                raise ConfigError(f"{setting} must be at least 1, not {value}")
        self.index = Index(path, verify=verify)
        header = self.index.header
        if not min_match <= max_match <= header.depth:
            bounds = f"from min_match ({min_match}) to the index's depth ({header.depth})"
            raise ConfigError(f"max_match must be {bounds}, not {max_match}")
        if tokenizer is not None and fingerprint(tokenizer) != header.fingerprint:
            raise DatastoreError(f"{path} was built with another tokenizer; build it again with this one")
        self.max_match = max_match
        self.min_match = min_match
        self.samples = samples
        self.max_draft = max_draft

    def draft(self, view: StepView, budget: int) -> DraftTree | None:
        """See :class:`racer.Drafter`.

        :raises ValueError: the index holds token ids that the model does not have.
        """
        if self.index.header.max_id >= view.vocab_size:
            raise ValueError(
                f"{self.index.path} holds token id {self.index.header.max_id}, the model has {view.vocab_size} tokens: "
                "it was built with another model's tokenizer"
            )
        return super().draft(view, budget)

    def grow(self, request: Request, tree: TreeBuilder) -> None:
        context = request.tokens[-self.max_match :]
        matched, found = self.index.longest(context, self.min_match, self.max_match)
        if found:
            rows = self.index.continuations(found, matched, self.samples, self.max_draft)
            fill(tree, rows, matched, self.index.header.separator)


def fill(tree: TreeBuilder, rows: list[list[int]], matched: int, separator: int) -> None:
    """Put the trie of ``rows`` (token lists of one length, cut at ``separator``) into the tree, best node first."""
    heap: list[tuple[float, int, int, int, int, list[list[int]]]] = []
    order = 0

    def push(parent: int, depth: int, rows: list[list[int]]) -> None:
        """The children of the trie's node that ``rows`` go through, ``depth`` tokens below the root."""
        nonlocal order
        follow: dict[int, list[list[int]]] = {}
        for row in rows:
            follow.setdefault(row[depth], []).append(row)
        follow.pop(separator, None)
        trust = matched / (matched + depth + 1) / total
        for token, through in follow.items():
            order += 1  # equal scores in order of arrival
            heapq.heappush(heap, (-len(through) * trust, order, parent, depth, token, through))

    total = len(rows)
    push(0, 0, rows)
    while heap:
        score, _, parent, depth, token, through = heapq.heappop(heap)
        node = tree.add(parent, token, -score)
        if node is None:
            return
        if depth + 1 < len(through[0]):
            push(node, depth + 1, through)
