"""``/v1/completions``."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from racer.serve.protocol.fields import Generation, Ignored, NotDone

DEFAULT_LIMIT = 16
"""New tokens where no limit is given: OpenAI's."""


def _prompts(value: Any) -> Any:
    """A text, texts, token ids, or lists of token ids: in each case a list of prompts."""
    if isinstance(value, str) or (isinstance(value, list) and value and all(map(_is_id, value))):
        return [value]
    whole = isinstance(value, list) and value
    if whole and (all(isinstance(one, str) for one in value) or all(_are_ids(one) for one in value)):
        return value
    expected = "expected a text, a list of texts, a list of token ids, or a list of such lists, none of them empty"
    raise PydanticCustomError("prompt", expected)


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_id, value))


def _echo(value: Any) -> Any:
    if value:
        raise PydanticCustomError("unsupported_parameter", "is not supported by this server: leave it out")
    return value


class CompletionRequest(Generation):
    """Text to be continued, as it is."""

    prompt: Annotated[list[Any], Field(max_length=128), BeforeValidator(_prompts)]
    """Texts, or lists of token ids."""
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    best_of: Annotated[int, Field(ge=1)] | None = None
    echo: Annotated[bool, BeforeValidator(_echo)] | None = None
    suffix: NotDone = None

    metadata: Ignored = None
    store: Ignored = None

    @property
    def scores(self) -> int | None:
        """How many likely tokens to report for each token; None for no report."""
        return self.logprobs
