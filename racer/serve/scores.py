"""Log probabilities of tokens, in OpenAI's two shapes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from racer.engine.continuous.stream import TokenScore

LOWEST = -9999.0
"""What OpenAI writes for tokens that are all but impossible; JSON has no infinity."""


class TokenNames:
    """The bytes of single tokens, as the vocabulary writes them.

    Two alphabets are common: that of byte-level BPE, in which each character stands for a byte, and SentencePiece's,
    with a mark for spaces and ``<0x0A>`` for bytes.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._bytes = _byte_alphabet() if _is_byte_level(tokenizer) else None
        self._special = set(getattr(tokenizer, "added_tokens_decoder", {}))
        self._known: dict[int, tuple[bytes, str]] = {}
        """Those that were asked for: a long answer has the same ones again and again, and others wait meanwhile."""

    def bytes_of(self, token: int) -> bytes:
        """Half characters too; nothing for ids that have no token."""
        return self._both(token)[0]

    def text_of(self, token: int) -> str:
        """As text; half characters as OpenAI writes them, ``bytes:\\xe4``, so that they can be told apart."""
        return self._both(token)[1]

    def _both(self, token: int) -> tuple[bytes, str]:
        known = self._known.get(token)
        if known is None:
            spelled = self._spelled(token)
            known = self._known[token] = spelled, _as_text(spelled)
        return known

    def _spelled(self, token: int) -> bytes:
        piece = self._tokenizer.convert_ids_to_tokens(token)
        if piece is None:
            return b""
        if token in self._special:
            return str(piece).encode()
        if self._bytes is not None and all(character in self._bytes for character in piece):
            return bytes(self._bytes[character] for character in piece)
        if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
            return bytes([int(piece[3:5], 16)])
        return str(piece).replace("▁", " ").encode()


def _as_text(spelled: bytes) -> str:
    try:
        return spelled.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in spelled)


def _is_byte_level(tokenizer: Any) -> bool:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return backend is not None and "ByteLevel" in repr(backend.decoder)


def _byte_alphabet() -> dict[str, int]:
    """Byte-level BPE's: printable bytes stand for themselves, the others are moved up behind them."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


def of_chat(scores: Iterable[TokenScore], names: TokenNames) -> dict[str, Any]:
    """``choices[].logprobs`` of a chat."""

    def entry(token: int, logprob: float) -> dict[str, Any]:
        spelled = list(names.bytes_of(token))
        return {"token": names.text_of(token), "logprob": max(logprob, LOWEST), "bytes": spelled}

    content = [
        entry(score.token, score.logprob) | {"top_logprobs": [entry(*likely) for likely in score.top]}
        for score in scores
    ]
    return {"content": content, "refusal": None}


def of_completion(units: Iterable[tuple[int, Iterable[TokenScore]]], names: TokenNames) -> dict[str, Any]:
    """``choices[].logprobs`` of a completion.

    :param units: where pieces of text begin in the answer, and their tokens.
    """
    told: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    for start, scores in units:
        offset = start
        for score in scores:
            own = max(score.logprob, LOWEST)
            likely = {names.text_of(token): max(logprob, LOWEST) for token, logprob in score.top}
            told["tokens"].append(names.text_of(score.token))
            told["token_logprobs"].append(own)
            told["top_logprobs"].append(likely | {names.text_of(score.token): own})
            told["text_offset"].append(offset)
    return told
