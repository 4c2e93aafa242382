"""Text as tokens come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

LONGEST_STOP = 1024
"""Characters of a stop string: so much of an answer is decoded anew with each token to find one."""
PATIENCE = 8
"""Tokens that wait for the rest of a character, which has four bytes at most; then they are no text."""
HALVES = 3
"""Marks of a character that is not whole yet, where each of its bytes has one."""
MARK = "\N{REPLACEMENT CHARACTER}"


class Detokenizer:
    """Turns a growing list of tokens into growing text; what it gave is never taken back.

    A character may be spread over several tokens, and the text of a token may depend on the one before it. So the last
    piece is decoded together with the new tokens, and what is new of their text waits until it does not end in half a
    character. Bytes that are no text would wait for ever: after some tokens all is given but what may still be the
    beginning of a character. Only the last pieces are decoded anew, so the cost of a token does not grow with the text.

    :param before: tokens of the text that this one goes on from; none where it stands for itself. Many tokenizers leave
        out a space before the first token. Where they end in half a character, the text stands for itself, too.
    """

    def __init__(self, tokenizer: Any, before: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._tokens: list[int] = []
        """The last ones: of the last piece that was given, and those behind it."""
        self._fresh = 0
        """Tokens that came after the last piece."""
        self._given = 0
        """Characters of the text of ``_tokens`` that are out."""
        for count in range(PATIENCE, PATIENCE + HALVES + 1) if before else ():
            text = decode(tokenizer, tail := list(before[-count:]))
            if not text.startswith(MARK) and not text.endswith(MARK):  # cut within a character
                self._tokens, self._given = tail, len(text)
                return

    def add(self, token: int) -> str:
        """The text that becomes certain with ``token``; often empty."""
        self._tokens.append(token)
        self._fresh += 1
        text = decode(self._tokenizer, self._tokens)
        empty = len(text) <= self._given
        if not empty and not text.endswith(MARK):
            return self._give(text, self._fresh, 0)
        if self._fresh < PATIENCE:
            return ""
        if empty:  # special tokens: the text behind them needs the piece before them, and not these
            del self._tokens[-self._fresh :]
            self._fresh = 0
            return ""
        marks = len(text) - len(text.rstrip(MARK))
        return self._give(text, PATIENCE, min(marks, HALVES))

    def end(self) -> str:
        """What is left, half characters and all."""
        text = decode(self._tokenizer, self._tokens)[self._given :]
        self._tokens.clear()
        self._fresh = self._given = 0
        return text

    def _give(self, text: str, kept: int, waiting: int) -> str:
        """What is new of ``text`` but for its last characters.

        :param kept: of the last tokens, with which the next ones are decoded.
        :param waiting: characters that may still become others.
        """
        self._tokens = self._tokens[-kept:]
        behind = len(decode(self._tokenizer, self._tokens))
        waiting = min(waiting, behind)
        piece = text[self._given : len(text) - waiting]
        self._given, self._fresh = behind - waiting, 0
        return piece


def continuation(tokenizer: Any, before: Sequence[int], tokens: Sequence[int]) -> str:
    """The text of ``tokens`` where they go on from the text of ``before``."""
    text = Detokenizer(tokenizer, before)
    return "".join(map(text.add, tokens)) + text.end()


def decode(tokenizer: Any, tokens: list[int]) -> str:
    """The text of ``tokens``, special ones left out, nothing tidied."""
    text: str = tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text
