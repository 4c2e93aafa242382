"""What a line asks for: OpenAI's bodies and plain lines become one thing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from racer.batch.fields import Wanted, wanted
from racer.batch.lines import Line, LineError

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
ROLES = ("system", "developer", "user", "assistant")

Message = dict[str, str]


@attrs.frozen
class Asked:
    """A line, understood."""

    messages: tuple[Message, ...] | None
    """A conversation for the model's chat template ..."""
    prompt: str | list[int] | None
    """... or a text or tokens to continue as they are."""
    wanted: Wanted
    url: str | None = None
    """The endpoint whose form the answer has; None for a plain line."""


def understand(line: Line) -> Asked:
    """What a line asks for.

    :raises LineError: that cannot be done; the message says why.
    """
    if line.fault is not None:
        raise LineError(line.fault)
    return _of_openai(line.data) if line.openai else _of_plain(line.data)


def _of_openai(data: Mapping[str, Any]) -> Asked:
    for name, value in (("method", "POST"), ("url", None)):
        if name not in data or (value is not None and data[name] != value):
            raise LineError(f"{name!r} must be {value or 'an endpoint'!r}, not {data.get(name)!r}")
    url, body = data["url"], data.get("body")
    if not isinstance(body, dict):
        raise LineError("'body' must be an object")
    if url == CHAT:
        return Asked(_messages(body), None, wanted(body, frozenset({"messages"})), url)
    if url == COMPLETION:
        return Asked(None, _prompt(body), wanted(body, frozenset({"prompt"})), url)
    raise LineError(f"'url' must be {CHAT!r} or {COMPLETION!r}, not {url!r}")


def _of_plain(data: Mapping[str, Any]) -> Asked:
    settings = wanted(data, frozenset({"id", "prompt", "messages"}))
    if (data.get("prompt") is None) == (data.get("messages") is None):
        raise LineError("a line needs 'prompt' or 'messages', and not both")
    if data.get("messages") is not None:
        return Asked(_messages(data), None, settings)
    text = _prompt(data)
    if isinstance(text, list):
        return Asked(None, text, settings)
    return Asked(({"role": "user", "content": text},), None, settings)


def _prompt(body: Mapping[str, Any]) -> str | list[int]:
    found = body.get("prompt")
    if isinstance(found, list) and len(found) == 1 and isinstance(found[0], str):
        found = found[0]
    if isinstance(found, str):
        return _checked(found, "'prompt'")
    tokens = isinstance(found, list) and all(isinstance(part, int) and not isinstance(part, bool) for part in found)
    if not tokens or not found:
        raise LineError("'prompt' must be one text that is not empty, or the numbers of its tokens")
    return list(found)


def _messages(body: Mapping[str, Any]) -> tuple[Message, ...]:
    found = body.get("messages")
    if not isinstance(found, list) or not found:
        raise LineError("'messages' must be a list that is not empty")
    return tuple(_message(message, number) for number, message in enumerate(found))


def _message(message: Any, number: int) -> Message:
    place = f"messages[{number}]"
    if not isinstance(message, dict):
        raise LineError(f"{place} must be an object with 'role' and 'content'")
    if others := sorted(name for name, value in message.items() if name not in ("role", "content") and value):
        raise LineError(f"{place}: field {others[0]!r} is not supported; there are 'role' and 'content'")
    role = message.get("role")
    if role not in ROLES:
        raise LineError(f"{place}: 'role' must be one of {', '.join(ROLES)}, not {role!r}")
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(_part(part, place) for part in content)
    if not isinstance(content, str):
        raise LineError(f"{place}: 'content' must be a text, or a list of parts of type 'text'")
    return {"role": "system" if role == "developer" else role, "content": _encodable(content, place)}


def _part(part: Any, place: str) -> str:
    if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    raise LineError(f"{place}: only parts of type 'text' are supported")


def _checked(text: str, place: str) -> str:
    if not text:
        raise LineError(f"{place} must not be empty")
    return _encodable(text, place)


def _encodable(text: str, place: str) -> str:
    """JSON can hold half a character, which no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise LineError(f"{place} holds half a character (a lone surrogate)") from None
    return text
