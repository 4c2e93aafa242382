"""Tokenizers: loading one by name, and telling one from another."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from racer_datastore.format import DatastoreError


class Tokenizer(Protocol):
    """The part of a Hugging Face tokenizer that is used here."""

    def get_vocab(self) -> dict[str, int]: ...

    def __call__(self, text: str, *, add_special_tokens: bool, verbose: bool) -> Any: ...


def fingerprint(tokenizer: Tokenizer) -> bytes:
    """SHA-256 of the vocabulary, added tokens included: 32 bytes."""
    pairs = sorted(tokenizer.get_vocab().items(), key=lambda pair: (pair[1], pair[0]))
    return hashlib.sha256(json.dumps(pairs).encode("ascii")).digest()


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    """Token ids without special tokens, of any length without a warning."""
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def load(name: str, progress: Callable[[str, int, int], None] | None = None) -> Tokenizer:
    """The tokenizer of a model id, folder or GGUF file, or of RACER's own model for ``default``.

    :param progress: told how far a download is, as in :func:`racer.loading.models.load_tokenizer`.
    :raises RacerError: it cannot be loaded; the message says what would help.
    """
    from racer.loading.models import load_tokenizer, quiet

    if not (Path(name) / "tokenizer_config.json").is_file():
        own: Tokenizer = load_tokenizer(None if name == "default" else name, progress=progress)
        return own
    from transformers import AutoTokenizer  # a folder may hold a tokenizer without its model

    try:
        with quiet():
            loaded: Tokenizer = AutoTokenizer.from_pretrained(name)
    except Exception as error:  # transformers raises whatever its readers do
        raise DatastoreError(f"cannot load the tokenizer in {name}: {error}") from error
    return loaded
