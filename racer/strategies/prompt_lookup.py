"""Prompt lookup decoding (Saxena 2023): what followed the last few tokens before, follows again."""

from __future__ import annotations

import numpy as np

from racer.errors import ConfigError
from racer.step.request import Request
from racer.step.tree_builder import TreeBuilder
from racer.strategies.base import Drafter


class PromptLookup(Drafter):
    """One chain: the continuation of the latest earlier occurrence of the longest matching n-gram of this request,
    repeated where it reaches the end of the text.

    :param max_ngram: longest suffix to look for, in tokens.
    :param max_tokens: longest chain.
    :raises ConfigError: one of them is below 1.
    """

    name = "prompt-lookup"

    def __init__(self, max_ngram: int = 3, max_tokens: int = 10) -> None:
        if max_ngram < 1 or max_tokens < 1:
            raise ConfigError(f"prompt-lookup needs max_ngram and max_tokens >= 1, not {max_ngram} and {max_tokens}")
        self.max_ngram = max_ngram
        self.max_tokens = max_tokens

    def grow(self, request: Request, tree: TreeBuilder) -> None:
        tokens = np.asarray(request.tokens)
        for size in range(min(self.max_ngram, len(tokens) - 1), 0, -1):
            windows = np.lib.stride_tricks.sliding_window_view(tokens[:-1], size)
            starts = np.flatnonzero((windows == tokens[-size:]).all(axis=1))
            if starts.size:
                follow = int(starts[-1]) + size
                # where the text ends before the chain does, it is taken to repeat itself
                tree.add_chain(np.resize(tokens[follow:], self.max_tokens).tolist())
                return
