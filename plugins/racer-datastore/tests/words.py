"""A tokenizer that is made on the spot."""

from __future__ import annotations

from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast


def word_tokenizer(words: str) -> Any:
    """One id per word, in order; 0 is anything else."""
    vocab = {word: number for number, word in enumerate(["<unk>", *words.split()])}
    tokenizer = Tokenizer(WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
