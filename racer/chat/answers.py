"""The model's part of a chat: an engine that answers, and remembers what it scored."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from typing import Any, Protocol

import attrs

from racer.chat.conversation import Conversation
from racer.engine.continuous.stream import Completion, Stream
from racer.errors import ConfigError
from racer.loading.detokenizer import Detokenizer
from racer.loading.loaded_model import LoadedModel


class Engine(Protocol):
    """What is needed of :class:`racer.Engine`."""

    def submit(self, prompt_ids: list[int], settings: dict[str, Any], *, seed: int | None) -> Stream:
        """Begin to answer."""
        ...


@attrs.frozen
class Figures:
    """What one answer cost, or several together."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    new_tokens: int = 0
    seconds: float = 0.0
    steps: int = 0
    emitted: int = 0
    """Tokens of those steps."""
    drafted: int = 0
    accepted: int = 0

    @classmethod
    def of(cls, completion: Completion) -> Figures:
        """Of one answer."""
        stats = completion.stats
        lengths = [length for row in stats.accept_lengths for length in row]
        return cls(
            prompt_tokens=completion.prompt_tokens,
            cached_tokens=completion.cached_tokens,
            new_tokens=len(completion.tokens),
            seconds=completion.seconds,
            steps=len(lengths),
            emitted=sum(lengths),
            drafted=stats.drafted.total(),
            accepted=stats.accepted.total(),
        )

    def __add__(self, other: Figures) -> Figures:
        pairs = zip(attrs.astuple(self), attrs.astuple(other), strict=True)
        return Figures(*(ours + theirs for ours, theirs in pairs))

    def __str__(self) -> str:
        speed = self.new_tokens / self.seconds if self.seconds else math.nan
        mean = f"{self.emitted / self.steps:.2f}" if self.steps else "no"
        return (
            f"{speed:.1f} tokens/s, {mean} mean accepted tokens, {self.accepted} of {self.drafted} drafted accepted, "
            f"{self.cached_tokens} of {self.prompt_tokens} prompt tokens reused"
        )


class Answer:
    """One answer, while it comes.

    :param limit: new tokens that it may have.
    """

    def __init__(self, stream: Stream, tokenizer: Any, limit: int) -> None:
        self._stream, self._detokenizer = stream, Detokenizer(tokenizer)
        self.limit = limit
        self.text = ""
        """What came so far."""

    def stop(self) -> None:
        """End it; its pieces end soon after."""
        self._stream.cancel()

    def pieces(self) -> Iterator[tuple[str, bool]]:
        """Its text as it comes, and whether the drafter guessed that piece.

        :raises Exception: what the engine failed with.
        """
        for chunk in self._stream:
            for number, token in enumerate(chunk.tokens):
                yield from self._piece(self._detokenizer.add(token), number < chunk.accepted)
        yield from self._piece(self._detokenizer.end(), False)

    def _piece(self, text: str, drafted: bool) -> Iterator[tuple[str, bool]]:
        if text:
            self.text += text
            yield text, drafted

    @property
    def completion(self) -> Completion:
        """How it ended; waits for that."""
        return self._stream.result()


class Answerer:
    """Puts questions to the engine, as much of the chat before them as the context holds.

    :param arguments: the engine's settings but for the length, the same for every answer.
    :param max_new_tokens: length limit of an answer.
    :param context: tokens that a prompt and its answer may have together.
    :param seed: makes the seeds of sampled answers, each its own; None for greedy ones.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        engine: Engine,
        arguments: dict[str, Any],
        *,
        max_new_tokens: int,
        context: int,
        seed: int | None = None,
    ) -> None:
        self._loaded, self._engine, self._arguments = loaded, engine, arguments
        self._longest, self.context = max_new_tokens, context
        self._seeds = None if seed is None else random.Random(seed)

    @property
    def samples(self) -> bool:
        """Whether another try may give another answer."""
        return self._seeds is not None

    def begin(self, conversation: Conversation, question: str) -> Answer:
        """Begin to answer a question; the oldest turns are forgotten where it would not fit otherwise.

        :raises RacerError: it cannot be answered: the message alone is too long, or the chat template fails.
        """
        ids = self._fitted(conversation, question)
        limit = min(self._longest, self.context - len(ids))
        seed = None if self._seeds is None else self._seeds.getrandbits(62)
        stream = self._engine.submit(ids, {**self._arguments, "max_new_tokens": limit}, seed=seed)
        return Answer(stream, self._loaded.tokenizer, limit)

    def _fitted(self, conversation: Conversation, question: str) -> list[int]:
        """The prompt's tokens.

        If a quarter of the context (or the longest answer, if that is less) is not left for the answer, turns are
        forgotten until half of it is free: to forget one at every turn would mean to score all others anew each time.
        """
        before = conversation.forgotten
        ids = self._encoded(conversation, question)
        if len(ids) + min(self._longest, self.context // 4) > self.context:
            while len(ids) > self.context // 2 and conversation.forgotten < len(conversation.turns):
                conversation.forgotten += 1
                ids = self._encoded(conversation, question)
        if len(ids) >= self.context:
            conversation.forgotten = before
            raise ConfigError(
                f"this message takes {len(ids)} tokens with the system prompt, but the context has room for "
                f"{self.context}: shorten it"
            )
        return ids

    def _encoded(self, conversation: Conversation, question: str) -> list[int]:
        encoded = self._loaded.encode(conversation.messages(question))
        ids: list[int] = encoded["input_ids"][0].tolist()
        return ids
