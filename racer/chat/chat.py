"""The loop of a chat: read, answer, tell what it cost."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import attrs

from racer.chat import commands
from racer.chat.answers import Answer, Answerer, Figures
from racer.chat.conversation import Conversation, Turn
from racer.errors import EngineClosed, RacerError, first_line


class Reader(Protocol):
    """Where questions come from."""

    def read(self) -> str | None:
        """The next one; None when there are no more."""
        ...


@attrs.define(eq=False)
class Chat:
    """A chat with a model.

    :param write: takes the answer's text as it comes, and whether the drafter guessed it.
    :param tell: takes a line about it.
    """

    answerer: Answerer
    write: Callable[[str, bool], None]
    tell: Callable[[str], None]
    conversation: Conversation = attrs.field(factory=Conversation)
    total: Figures = attrs.field(factory=Figures)
    """Of all answers."""
    used: int = 0
    """Tokens of the last prompt and its answer."""
    saved: set[Path] = attrs.field(factory=set)
    """Files that may be written again, as they are this chat's."""

    def run(self, reader: Reader) -> None:
        """Until the reader has no more, or ``/quit``.

        :raises EngineClosed: the engine failed beyond repair.
        :raises OSError: an answer cannot be written.
        """
        while (text := reader.read()) is not None:
            if not text.strip():
                continue
            try:
                self._take(text.strip())
            except commands.Quit:
                return
            except EngineClosed:
                raise
            except RacerError as error:
                self.tell(str(error))
            except OSError:
                raise
            except Exception as error:  # a step has failed, for lack of memory, say: the next one need not
                self.tell(f"this cannot be answered: {type(error).__name__}: {first_line(error)}")

    def _take(self, text: str) -> None:
        if text.startswith("/") and not text.startswith("//"):
            commands.run(self, text)
        else:
            self.ask(text.removeprefix("/") if text.startswith("//") else text)

    def ask(self, question: str) -> None:
        """Put a question; it and as much of the answer as came stay in the conversation.

        :raises RacerError: it cannot be answered.
        """
        with stopped_by_interrupts() as stopping:
            forgotten = self.conversation.forgotten
            answer = self.answerer.begin(self.conversation, question)
            if self.conversation.forgotten > forgotten:
                self._tell_forgotten()
            stopping(answer.stop)
            try:
                for text, drafted in answer.pieces():
                    self.write(text, drafted)
                self.write("\n", False)
            finally:
                self.conversation.turns.append(Turn(question, answer.text))
            self._tell_end(answer)

    def _tell_end(self, answer: Answer) -> None:
        completion = answer.completion
        self.used = completion.prompt_tokens + len(completion.tokens)
        figures = Figures.of(completion)
        self.total += figures
        if completion.finish == "length":
            self.tell(f"(cut at {answer.limit} tokens)")
        elif completion.finish == "cancelled":
            self.tell("(stopped)")
        self.tell(str(figures))

    def _tell_forgotten(self) -> None:
        self.tell(
            f"(the context of {self.answerer.context} tokens is full: the oldest {self.conversation.forgotten} turns "
            "are not told to the model any more; /clear begins anew)"
        )


@contextmanager
def stopped_by_interrupts() -> Iterator[Callable[[Callable[[], None]], None]]:
    """Inside, the first Ctrl-C stops what was named by calling the given function; the second one is an interrupt.

    What it stops is called on a thread of its own, as a signal comes at any place, also where locks are held.
    """
    stop: Callable[[], None] | None = None
    came = False

    def call() -> None:
        if stop is not None:
            threading.Thread(target=stop).start()

    def heard(number: int, frame: Any) -> None:
        nonlocal came
        came = True
        signal.signal(signal.SIGINT, before)
        call()

    def name(function: Callable[[], None]) -> None:
        nonlocal stop
        stop = function
        if came:
            call()

    before = signal.signal(signal.SIGINT, heard)
    try:
        yield name
    finally:
        signal.signal(signal.SIGINT, before)
