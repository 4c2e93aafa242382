"""Conversations and texts as token ids."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from racer.core.kept_weights import shape_of
from racer.errors import first_line
from racer.loading.loaded_model import LoadedModel
from racer.serve.errors import invalid
from racer.serve.protocol.chat import Message, Tool

ROLES = {"developer": "system"}
"""Roles that templates know by another name."""


def of_conversation(loaded: LoadedModel, messages: Sequence[Message], tools: Sequence[Tool]) -> list[int]:
    """``[P]`` through the model's chat template, or the texts alone where it has none.

    :raises ApiError: the template refuses, or an earlier call's arguments are no JSON object.
    """
    told = [_as_templates_want(message, place) for place, message in enumerate(messages)]
    if not getattr(loaded.tokenizer, "chat_template", None):
        return of_text(loaded, "\n\n".join(message["content"] for message in told))
    offered = [tool.model_dump(exclude_none=True, exclude={"function": {"strict"}}) for tool in tools]
    try:
        encoded = loaded.tokenizer.apply_chat_template(
            told, tools=offered or None, add_generation_prompt=True, return_dict=True
        )
    except Exception as error:  # templates are programs of the model's authors, and refuse by raising
        raise invalid(f"The model's chat template refuses the messages: {first_line(error)}", "messages") from error
    return list(encoded["input_ids"])


def of_text(loaded: LoadedModel, text: str, *, special: bool = True) -> list[int]:
    """``[P]`` as it is; ``special``: behind what the tokenizer begins texts with.

    :raises ApiError: it holds half a character.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise invalid("A text holds half a character (a lone surrogate), which no tokenizer takes.") from None
    return list(loaded.tokenizer(text, add_special_tokens=special)["input_ids"])


def of_ids(loaded: LoadedModel, ids: Sequence[int], param: str) -> list[int]:
    """``[P]`` as they were given.

    :raises ApiError: one of them is none of the model's tokens.
    """
    size = vocab_size(loaded)
    if wrong := next((token for token in ids if not 0 <= token < size), None):
        raise invalid(f"{wrong} is no token of this model: there are {size}, from 0 on", param)
    return list(ids)


def vocab_size(loaded: LoadedModel) -> int:
    """Tokens that the model can read."""
    return shape_of(loaded.model.get_input_embeddings())[0]


def _as_templates_want(message: Message, place: int) -> dict[str, Any]:
    """A plain text, known roles, and arguments as objects."""
    told: dict[str, Any] = {"role": ROLES.get(message.role, message.role), "content": message.text}
    for name in ("name", "tool_call_id"):
        if (value := getattr(message, name)) is not None:
            told[name] = value
    if message.tool_calls:
        told["tool_calls"] = [
            {"id": call.id, "type": "function",
             "function": {"name": call.function.name, "arguments": _arguments(call.function.arguments, place)}}
            for call in message.tool_calls
        ]  # fmt: skip
    return told


def _arguments(text: str, place: int) -> dict[str, Any]:
    """Templates write them as JSON themselves."""
    try:
        found = json.loads(text or "{}")
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise invalid("the arguments of an earlier tool call must be a JSON object", f"messages[{place}].tool_calls")
    return found
