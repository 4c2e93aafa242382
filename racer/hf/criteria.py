"""Stopping criteria: which of them may be asked about one row at a time, and what was said ahead of time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import torch
from torch import Tensor
from transformers import EosTokenCriteria, StoppingCriteriaList
from transformers.generation import MaxLengthCriteria, MaxTimeCriteria, StopStringCriteria

from racer.errors import UnsupportedGeneration
from racer.hf.processors.texts import Text
from racer.step.request import Request, cut, end
from racer.step.verdict import NO_TOKEN, check_drawn
from racer.step.view import Prefix

OWN = (EosTokenCriteria, MaxLengthCriteria)
"""Criteria that the loop has itself."""
ROW_WISE = (MaxTimeCriteria, StopStringCriteria)
"""Criteria whose answer for a row depends on that row alone, without a memory."""
NOTHING = 2**40
"""An id beyond all vocabularies, which no stop string has."""
TOGETHER = ("ConfidenceCriteria",)
"""transformers' other ones: they read the first row."""


def row_wise(criterion: Any) -> bool:
    """Whether a criterion may be asked about one row at a time, or says so with ``racer_row_wise = True``."""
    return type(criterion) in (*OWN, *ROW_WISE) or getattr(criterion, "racer_row_wise", False) is True


def in_step(criteria: Sequence[Any], batch_size: int) -> bool:
    """Whether criteria have to be asked about all rows at once: of some the answer for one row may depend on others, or
    nothing pads rows that have stopped, so that they go on until all have."""
    others = [item for item in criteria if type(item) not in OWN]
    pads = any(hasattr(item, "eos_token_id") for item in criteria)
    return batch_size > 1 and len(others) > 0 and not (pads and all(map(row_wise, others)))


def refuse_criteria(criteria: Sequence[Any], batch_size: int, *, scores: bool, streams: bool, remembers: bool) -> None:
    """See that criteria can be asked what plain decoding asks them.

    :param scores: whether ``generate`` is to keep all steps' scores, and criteria are shown them.
    :param streams: whether tokens are to be told of before all rows have got there.
    :param remembers: whether a logits processor must not be asked what comes behind the end of a row.
    :raises UnsupportedGeneration: they cannot.
    """
    unknown = [type(criterion).__name__ for criterion in criteria if not row_wise(criterion)]
    if scores and unknown:
        raise UnsupportedGeneration(f"stopping criterion {unknown[0]} may read scores: leave out output_scores")
    if (streams or remembers) and in_step(criteria, batch_size):
        reason = (
            f"stopping criterion {unknown[0]} may look across rows (if not, give it racer_row_wise = True)"
            if unknown
            else "without an eos_token_id rows that have stopped go on until all have"
        )
        raise UnsupportedGeneration(
            f"{reason}, so that rows end late, too late for a streamer or a logits processor with a memory: pass one "
            "prompt at a time"
        )


class RowCriteria:
    """Asks criteria about rows, each as a batch of one: once about each token, in order.

    :param criteria: other than the loop's own.
    """

    def __init__(self, criteria: Sequence[Any], device: torch.device) -> None:
        self._criteria, self._device = StoppingCriteriaList(criteria), device
        self._said: dict[tuple[int, int, int], bool] = {}
        """Of a request, its length and its last token: what was said ahead."""
        self._texts: dict[int, Text] = {}
        tails = [item.maximum_token_len for item in criteria if type(item) is StopStringCriteria]
        self._tail = max(tails, default=0) if all(type(item) in ROW_WISE for item in criteria) else 0
        """As many last tokens decide, if that is all that criteria look at; else 0."""

    def __call__(self, request: Request) -> bool:
        """Whether the row ends with its last token."""
        said = self._said.pop((request.id, len(request.tokens), request.tokens[-1]), None)
        return self._ask(request, ()) if said is None else said

    def ahead(self, request: Request, tokens: Sequence[int]) -> bool:
        """Whether it would end with the last of ``tokens``, which are to be appended."""
        key = request.id, len(request.tokens) + len(tokens), tokens[-1]
        self._said[key] = self._ask(request, tokens)
        return self._said[key]

    def foresee(self, news: Sequence[tuple[Request, Sequence[int]]]) -> None:
        """Ask about all tokens of a step at once, where a few last ones decide: of all rows, one behind the other."""
        if not self._tail:
            return
        self._said, windows = {}, []
        keys: list[tuple[int, int, int]] = []
        for request, tokens in news:
            text = [*request.padding, *request.tokens][-self._tail :]
            text += [NOTHING if token == NO_TOKEN else token for token in tokens]
            for number, token in enumerate(tokens, start=1):
                window = text[: len(text) - len(tokens) + number][-self._tail :]
                windows.append([NOTHING] * (self._tail - len(window)) + window)
                keys.append((request.id, len(request.tokens) + number, token))
        if windows:
            said = self._criteria(torch.tensor(windows, device=self._device), None).tolist()
            self._said = dict(zip(keys, said, strict=True))

    def _ask(self, request: Request, tokens: Sequence[int]) -> bool:
        text = self._texts.setdefault(request.id, Text(self._device))
        return bool(self._criteria(text.of(Prefix(0, request, tokens))[None], None).any())


@attrs.define(eq=False)
class Lockstep:
    """Asks criteria about all rows at once: about each length when all rows have got there, as ``generate`` shows it.

    Rows that ran ahead are cut back to where they should have ended.
    """

    criteria: StoppingCriteriaList
    _ids: Tensor
    """``[B, L]`` as far as was asked; to begin with, the prompts."""
    pad: int | None
    """What stands behind the end of a row; None: its tokens go on until all rows have ended."""
    stop_tokens: frozenset[int] = frozenset()
    """Ids with which the loop itself ends a row."""
    _ended: list[bool] = attrs.field(default=attrs.Factory(lambda self: [False] * len(self._ids), takes_self=True))

    def __call__(self, requests: Sequence[Request]) -> None:
        """Take note of new tokens, and end rows.

        :param requests: all rows of the call.
        :raises RuntimeError: no token can be drawn for a row, and all rows have got that far.
        """
        while not all(self._ended) and (column := self._column(requests)) is not None:
            self._ids = torch.cat([self._ids, self._ids.new_tensor(column)[:, None]], dim=1)
            length = self._ids.shape[1]
            said = self.criteria(self._ids, None).expand(len(requests)).tolist()
            for row, request in enumerate(requests):
                if not self._ended[row]:
                    self._ended[row] = said[row] or self._ends_itself(request, length)
                    if self._ended[row] and self.pad is not None:
                        _end(request, length)
        if all(self._ended) and self.pad is None:
            for request in requests:
                _end(request, self._ids.shape[1])

    def _ends_itself(self, request: Request, length: int) -> bool:
        """Whether the loop has ended a row where its text has this length, padding included."""
        if not request.done or length != len(request.padding) + len(request.tokens):
            return False
        return request.remaining <= 0 or request.tokens[-1] in self.stop_tokens

    def _column(self, requests: Sequence[Request]) -> list[int] | None:
        """The next token of every row, if all have got there."""
        length, column = self._ids.shape[1], []
        for request, ended in zip(requests, self._ended, strict=True):
            place = length - len(request.padding)
            if ended and self.pad is not None:
                column.append(self.pad)
            elif place < len(request.tokens):
                column.append(request.tokens[place])
            elif request.done:
                check_drawn(NO_TOKEN)
            else:
                return None
        return column


def _end(request: Request, length: int) -> None:
    """Let a row end where its text has this length, padding included."""
    cut(request, length - len(request.padding))
    end(request)
