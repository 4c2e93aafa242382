"""The lines of the output file, as plain data."""

from __future__ import annotations

import math
import secrets
import time
from typing import Any

from racer.batch.asked import CHAT, Asked
from racer.batch.lines import Line
from racer.engine.continuous.stream import Completion

REFUSED, FAILED = 400, 500
"""Status codes: the line asks for what cannot be done; it could not be done although it can."""


def answer(
    line: Line, asked: Asked, text: str, completion: Completion, *, model: str, settings: str, seed: int | None
) -> dict[str, Any]:
    """The line of an answer.

    :param settings: the digest of the run's settings.
    :param seed: of its noise, with which it can be repeated; None if it was not sampled.
    """
    usage = {
        "prompt_tokens": completion.prompt_tokens,
        "completion_tokens": len(completion.tokens),
        "total_tokens": completion.prompt_tokens + len(completion.tokens),
        "prompt_tokens_details": {"cached_tokens": completion.cached_tokens},
    }
    ours = _ours(line, settings) | _figures(completion) | ({} if seed is None else {"seed": seed})
    if asked.url is None:
        return {"id": line.id, "text": text, "finish_reason": completion.finish, "usage": usage, "racer": ours}
    chat = asked.url == CHAT
    said = {"message": {"role": "assistant", "content": text, "refusal": None}} if chat else {"text": text}
    request = secrets.token_hex(12)
    body = {
        "id": f"{'chatcmpl' if chat else 'cmpl'}-{request}",
        "object": "chat.completion" if chat else "text_completion",
        "created": int(time.time()),
        "model": model,
        "choices": [{"index": 0, **said, "logprobs": None, "finish_reason": completion.finish}],
        "usage": usage,
    }
    return _openai(line, {"status_code": 200, "request_id": request, "body": body}, None, ours)


def failure(line: Line, status: int, message: str, *, settings: str) -> dict[str, Any]:
    """The line of a request that failed; its message is where either kind of reader looks for it."""
    kind = "invalid_request_error" if status == REFUSED else "server_error"
    error = {"message": message, "type": kind, "code": status}
    ours = _ours(line, settings)
    if not line.openai:
        return {"id": line.id, "error": error, "racer": ours}
    response = {"status_code": status, "request_id": secrets.token_hex(12), "body": {"error": error}}
    return _openai(line, response, {"code": kind, "message": message}, ours)


def _openai(line: Line, response: dict[str, Any], error: dict[str, Any] | None, ours: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": f"batch_req_{secrets.token_hex(12)}",
        "custom_id": line.id,
        "response": response,
        "error": error,
        "racer": ours,
    }


def _ours(line: Line, settings: str) -> dict[str, Any]:
    """What tells a later run that this answers that line under those settings."""
    return {"line": line.number, "input": line.digest, "settings": settings}


def _figures(completion: Completion) -> dict[str, Any]:
    stats, mean = completion.stats, completion.stats.mean_accepted_tokens
    return {
        "seconds": round(completion.seconds, 3),
        "steps": stats.steps,
        "mean_accepted_tokens": None if math.isnan(mean) else round(mean, 3),  # there may have been no step
        "drafted": stats.drafted.total(),
        "accepted": stats.accepted.total(),
    }
