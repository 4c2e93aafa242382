"""Text as it is accepted: tokens in, characters out, accepted drafts in another colour."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from racer.hookspecs import hookimpl
from racer.loading.detokenizer import Detokenizer

if TYPE_CHECKING:
    from torch import Tensor

    from racer.step.draft_tree import DraftTree
    from racer.step.request import Request
    from racer.step.stats import StepStats
    from racer.step.verdict import Verdict
    from racer.step.view import StepView

Sink = Callable[[str, bool], None]
"""``sink(text, drafted)``: some more text, and whether it was guessed by the drafter."""


class Streamer:
    """Both ends of the stream: ``generate`` puts tokens in, and as a plugin it hears which of them were guessed.

    A step's tokens are put one by one before ``racer_step`` says which they were, so they wait for it. The first token
    comes from the prompt's own pass, and models that cannot be decoded with trees have no steps: those do not wait.
    """

    def __init__(self, tokenizer: Any, sink: Sink, before: Sequence[int] = ()) -> None:
        self._text = Detokenizer(tokenizer, before)
        self._sink = sink
        self._waiting: list[int] = []
        self._first = True
        self._in_steps = False
        self._failure: OSError | None = None
        self.tokens: list[int] = []
        """All that was put, the prompt left out."""

    def put(self, value: Tensor) -> None:
        """Take the prompt ``[1, P]``, which is ignored, or the next token ``[1]``.

        :raises OSError: the sink failed.
        """
        self._raise_failure()
        if value.dim() > 1:
            return
        token = int(value)
        self.tokens.append(token)
        self._waiting.append(token)
        if self._first or not self._in_steps:
            self._flush(drafted=0)
        self._first = False

    def end(self) -> None:
        """Give out what waits, and the last half character. May be called twice.

        :raises OSError: the sink failed.
        """
        self._raise_failure()
        self._flush(drafted=0)
        if text := self._text.end():
            self._sink(text, False)

    def _raise_failure(self) -> None:
        if self._failure:  # the reader has gone; a hook cannot stop the decoding, but this can
            raise self._failure

    def _flush(self, drafted: int) -> None:
        waiting, self._waiting = self._waiting, []
        for number, token in enumerate(waiting):
            if text := self._text.add(token):
                self._sink(text, number < drafted)

    @hookimpl
    def racer_request_opened(self, request: Request) -> None:
        self._in_steps = True

    @hookimpl
    def racer_step(self, view: StepView, tree: DraftTree, verdict: Verdict, stats: StepStats) -> None:
        if stats.nodes == 0 or verdict.host is None:  # a piece of prompt
            return
        try:
            self._flush(drafted=int(verdict.host.length[0]) - 1)
        except OSError as error:
            self._failure = error
