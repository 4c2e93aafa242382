"""Text as it is accepted: tokens in, characters out, accepted drafts in another colour."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from racer.hookspecs import hookimpl

if TYPE_CHECKING:
    from torch import Tensor

    from racer.step.draft_tree import DraftTree
    from racer.step.request import Request
    from racer.step.stats import StepStats
    from racer.step.verdict import Verdict
    from racer.step.view import StepView

Sink = Callable[[str, bool], None]
"""``sink(text, drafted)``: some more text, and whether it was guessed by the drafter."""


class Detokenizer:
    """Turns a growing list of tokens into growing text; what it gave is never taken back.

    A character may be spread over several tokens, and the text of a token may depend on the one before it. So the last
    piece is decoded with and without the new tokens, and their difference waits until it does not end in half a
    character. Only that last piece is decoded anew, so the cost of a token does not grow with the text.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._tokens: list[int] = []
        self._start = 0
        """Where the last piece starts."""
        self._given = 0
        """Tokens whose text is out."""

    def add(self, token: int) -> str:
        """The text that becomes certain with ``token``; often empty."""
        self._tokens.append(token)
        text = self._rest()
        if not text or text.endswith("�"):
            return ""
        self._start, self._given = self._given, len(self._tokens)
        return text

    def end(self) -> str:
        """What is left, half characters and all."""
        text = self._rest()
        self._start = self._given = len(self._tokens)
        return text

    def _rest(self) -> str:
        before = decode(self._tokenizer, self._tokens[self._start : self._given])
        return decode(self._tokenizer, self._tokens[self._start :])[len(before) :]


def decode(tokenizer: Any, tokens: list[int]) -> str:
    """The text of ``tokens``, special ones left out, nothing tidied."""
    text: str = tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text


class Streamer:
    """Both ends of the stream: ``generate`` puts tokens in, and as a plugin it hears which of them were guessed.

    A step's tokens are put one by one before ``racer_step`` says which they were, so they wait for it. The first token
    comes from the prompt's own pass, and models that cannot be decoded with trees have no steps: those do not wait.
    """

    def __init__(self, tokenizer: Any, sink: Sink) -> None:
        self._text = Detokenizer(tokenizer)
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
