"""Text as tokens come, also of tokens that are none: what the longest wait is, and what a token costs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from racer.loading.detokenizer import PATIENCE, Detokenizer, continuation, decode
from support.tiny_folder import build_tokenizer

TOKENIZER = build_tokenizer()
BYTES = [TOKENIZER.convert_tokens_to_ids(character) for character in "ÿä½ł"]  # FF, and E4 BD A0, which is 你


def of_single_bytes() -> PreTrainedTokenizerFast:
    """As SentencePiece's are with byte fallback: ids 1 to 256 are bytes, of which a wrong one spoils its neighbours."""
    vocabulary = {"<unk>": 0} | {f"<0x{byte:02X}>": byte + 1 for byte in range(256)} | {"▁a": 257, "b": 258}
    made = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True, unk_token="<unk>"))
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=made)


class Watched:
    """A tokenizer that knows how much it had to decode at once."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer, self.most = tokenizer, 0

    def decode(self, tokens: list[int], **how: Any) -> str:
        self.most = max(self.most, len(tokens))
        return str(self._tokenizer.decode(tokens, **how))


def pieces(tokenizer: Any, tokens: list[int]) -> list[str]:
    text = Detokenizer(tokenizer)
    return [*(text.add(token) for token in tokens), text.end()]


@pytest.mark.parametrize("tokens", [BYTES[:1], BYTES[1:3], BYTES[2:0:-1], [0], [0, BYTES[0]]], ids=str)
def test_what_is_no_text_neither_waits_for_ever_nor_costs_more_and_more(tokens: list[int]) -> None:
    watched, endless = Watched(TOKENIZER), tokens * 200
    found = pieces(watched, endless)
    assert "".join(found) == decode(TOKENIZER, endless)
    assert watched.most <= 3 * PATIENCE
    if found[-1]:
        lengths = [len("".join(found[: n + 1])) for n in range(len(found) - 1)]
        behind = [len(decode(TOKENIZER, endless[: n + 1])) - length for n, length in enumerate(lengths)]
        assert max(behind) <= PATIENCE + 3


@given(st.lists(st.sampled_from(BYTES), max_size=60))
def test_bytes_in_any_order_stream_to_their_text(tokens: list[int]) -> None:
    assert "".join(pieces(TOKENIZER, tokens)) == decode(TOKENIZER, tokens)


def test_characters_that_no_token_ends_with_come_all_the_same() -> None:
    """A token may hold a character's end and the next one's beginning."""
    made = Tokenizer(models.BPE({"ä": 0, "½łä": 1}, []))
    made.decoder = decoders.ByteLevel()
    tokens = [0] + [1] * 100
    found = pieces(PreTrainedTokenizerFast(tokenizer_object=made), tokens)
    assert "".join(found) == "你" * 100 + "�"
    assert "".join(found[:-1]).startswith("你" * (100 - PATIENCE))


@given(st.text("ab你😺é", max_size=30))
def test_single_bytes_make_whole_characters(text: str) -> None:
    tokenizer = of_single_bytes()
    tokens = [{"a": 257, "b": 258}.get(one) or one for one in text]
    ids = [i for one in tokens for i in ([one] if isinstance(one, int) else [byte + 1 for byte in one.encode()])]
    assert "".join(pieces(tokenizer, ids)) == decode(tokenizer, ids)


def test_single_bytes_that_are_no_text_neither() -> None:
    tokenizer = Watched(of_single_bytes())
    endless = [256] * 300
    found = pieces(tokenizer, endless)
    assert "".join(found) == "�" * 300
    assert tokenizer.most <= 3 * PATIENCE
    assert len(found[-1]) <= PATIENCE + 3


@given(st.text("ab你😺é ", max_size=12), st.text("ab你😺é ", max_size=12))
def test_a_text_that_goes_on_keeps_its_first_space(before: str, text: str) -> None:
    tokenizer = of_single_bytes()

    def ids_of(text: str) -> list[int]:
        return [byte + 1 for byte in text.encode()]

    assert continuation(tokenizer, ids_of(f"a{before}"), ids_of(text)) == text
    assert continuation(tokenizer, ids_of("a"), [257, 258]) == " ab"
    assert continuation(tokenizer, (), [257, 258]) == "ab"
    cut, whole = ids_of("a你")[:-1], ids_of("你")
    assert continuation(tokenizer, cut, whole[-1:]) == decode(tokenizer, whole[-1:])


def test_only_the_last_tokens_before_a_text_are_decoded() -> None:
    watched, before, new = Watched(TOKENIZER), *(TOKENIZER(text).input_ids for text in ("The fox", "ab"))
    assert continuation(watched, before * 500, new) == "ab"
    assert watched.most <= 3 * PATIENCE
