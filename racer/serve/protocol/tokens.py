"""``/tokenize`` and ``/detokenize``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from racer.serve.protocol.chat import Message, Tool
from racer.serve.protocol.fields import Body


class TokenizeRequest(Body):
    """A text as it is, or a conversation through the model's template; one of the two."""

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[Message], Field(min_length=1)] | None = None
    tools: list[Tool] | None = None
    add_special_tokens: bool = True
    """Whether a text begins with what the tokenizer puts there, such as a start token."""


class DetokenizeRequest(Body):
    """Tokens, of which the text is wanted, special ones included."""

    model: str | None = None
    tokens: list[Annotated[int, Field(ge=0)]]
