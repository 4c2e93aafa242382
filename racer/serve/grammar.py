"""Grammars that an answer must follow, by llguidance."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import llguidance
import numpy as np
import torch
from llguidance.hf import from_tokenizer
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask
from torch import Tensor
from transformers import LogitsProcessor

from racer.loading.loaded_model import LoadedModel
from racer.serve.errors import ApiError, invalid

WHITESPACE = r"[ \n]{0,40}"
"""Between a JSON text's parts: room to write it indented, and an end to it."""
ANY_OBJECT: Mapping[str, Any] = {"type": "object"}


class Grammars:
    """Makes grammars' processors for one model.

    :param end_tokens: what ends the model's answers.
    """

    def __init__(self, loaded: LoadedModel, end_tokens: Sequence[int]) -> None:
        self._loaded, self._end_tokens = loaded, list(end_tokens)
        self._making = threading.Lock()

    def processor(self, grammar: str, prompt_tokens: int) -> Grammar:
        """A new one, for one answer.

        :param grammar: from :func:`of_schema`, or in Lark's syntax.
        :raises ApiError: it, or the model's tokenizer, cannot be followed.
        """
        with self._making:  # it takes a second, and once is enough
            known = self._known
        matcher = llguidance.LLMatcher(known, grammar, log_level=0)
        if matcher.is_error():
            reason = " ".join(matcher.get_error().split())
            raise invalid(f"The schema cannot be followed: {reason}", code="invalid_schema")
        return Grammar(matcher, known.vocab_size, prompt_tokens)

    @cached_property
    def _known(self) -> Any:
        tokenizer = self._loaded.tokenizer
        if not getattr(tokenizer, "is_fast", False) or not self._end_tokens:
            lack = (
                "an end token" if getattr(tokenizer, "is_fast", False) else "a tokenizer that grammars can be made for"
            )
            raise ApiError(400, f"This model has not got {lack}: formats and forced tools cannot be had.")
        size = max(self._loaded.model.config.get_text_config().vocab_size, len(tokenizer))
        return from_tokenizer(tokenizer, n_vocab=size, eos_token=self._end_tokens)


def of_schema(schema: Mapping[str, Any]) -> str:
    """The grammar of JSON texts that a schema allows.

    :raises ApiError: it is no schema.
    """
    try:
        return str(llguidance.LLMatcher.grammar_from_json_schema(with_whitespace(schema)))
    except (ValueError, TypeError, RecursionError) as error:
        raise invalid(f"The schema cannot be followed: {' '.join(str(error).split())}", code="invalid_schema") from None


def with_whitespace(schema: Mapping[str, Any]) -> str:
    """A schema as JSON text, with what llguidance is told about spaces."""
    return json.dumps({**schema, "x-guidance": {"whitespace_pattern": WHITESPACE}})


class Grammar(LogitsProcessor):  # type: ignore[misc]  # transformers is untyped here
    """Leaves the tokens with which an answer can go on; the end token among them once it is complete.

    It may be asked about any prefix of one row: it goes back to where that parts from what it was asked before.
    """

    def __init__(self, matcher: Any, vocab_size: int, prompt_tokens: int) -> None:
        self._matcher, self._prompt_tokens = matcher, prompt_tokens
        self._mask = allocate_token_bitmask(1, vocab_size)
        self._followed: list[int] = []

    def racer_rows(self, rows: int) -> list[Grammar]:
        """One a row, as :mod:`racer.hf.processors` asks for it."""
        size = self._mask.shape[1] * 32
        return [Grammar(self._matcher.deep_copy(), size, self._prompt_tokens) for _ in range(rows)]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores ``[1, V]`` after ids ``[1, L]``.

        :raises RuntimeError: the matcher has given up, as the grammar is too much for it.
        """
        self._follow(input_ids[0, self._prompt_tokens :].tolist())
        fill_next_token_bitmask(self._matcher, self._mask)
        self._check()  # at its limits it raises nothing: the mask is the end token then
        bits = np.unpackbits(self._mask.view(np.uint8), bitorder="little")[: scores.shape[1]]
        allowed = np.zeros(scores.shape[1], dtype=bool)
        allowed[: len(bits)] = bits
        return scores.masked_fill(~torch.from_numpy(allowed).to(scores.device), -torch.inf)

    def _follow(self, answer: list[int]) -> None:
        pairs = enumerate(zip(self._followed, answer, strict=False))
        common = next((i for i, (had, has) in pairs if had != has), min(len(self._followed), len(answer)))
        if common < len(self._followed):
            self._matcher.rollback(len(self._followed) - common)
        if answer[common:]:
            self._matcher.consume_tokens(answer[common:])
        self._check()
        self._followed = answer

    def _check(self) -> None:
        if self._matcher.is_error():
            raise RuntimeError(f"the grammar cannot be followed further: {self._matcher.get_error()}")
