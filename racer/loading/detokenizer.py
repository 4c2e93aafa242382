"""Text as tokens come."""

from __future__ import annotations

from typing import Any


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
