"""A logits processor and a stopping criterion that transformers lacks. Both are functions of a row's ids alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, StoppingCriteria

from racer.loading.detokenizer import decode

WHOLE_CHARACTERS = 8
"""Tokens decoded beyond a stop string's length, so that it does not begin within a character."""


class CountPenalty(LogitsProcessor):  # type: ignore[misc]  # transformers is untyped here
    """Lowers the scores of tokens that the answer has, as OpenAI does: the prompt's do not count.

    :param prompt_tokens: of the row, padding included.
    :param presence: subtracted once from the score of every token that the answer has.
    :param frequency: subtracted as often as the answer has the token.
    """

    racer_row_wise = True

    def __init__(self, prompt_tokens: int, presence: float, frequency: float) -> None:
        self.prompt_tokens, self.presence, self.frequency = prompt_tokens, presence, frequency

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores ``[M, V]`` after ids ``[M, L]``."""
        answers = input_ids[:, self.prompt_tokens :]
        if answers.shape[1] == 0:
            return scores
        scores = scores.clone()
        for row, answer in zip(scores, answers, strict=True):
            tokens, counts = answer[answer < row.shape[0]].unique(return_counts=True)
            row[tokens] -= self.presence + self.frequency * counts
        return scores


class StopText(StoppingCriteria):  # type: ignore[misc]  # transformers is untyped here
    """Ends an answer whose text has got a stop string.

    transformers' own looks at the prompt too: an answer that begins with a line break would end there if the prompt
    ends with one, and two are the stop string.

    :param prompt_tokens: of the row, padding included.
    """

    racer_row_wise = True

    def __init__(self, tokenizer: Any, prompt_tokens: int, stops: Sequence[str]) -> None:
        self._tokenizer, self._prompt_tokens, self._stops = tokenizer, prompt_tokens, tuple(stops)
        # a token is a byte at least, but for special ones, which have no text: who looks at all of it finds the rest
        self._tail = max(len(stop.encode(errors="replace")) for stop in stops) + WHOLE_CHARACTERS

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        """``[M]`` whether each row of ids ``[M, L]`` has ended with its last token, or before."""
        start = max(self._prompt_tokens, input_ids.shape[1] - self._tail)
        texts = [decode(self._tokenizer, tail) for tail in input_ids[:, start:].tolist()]
        return torch.tensor([any(stop in text for stop in self._stops) for text in texts], device=input_ids.device)
