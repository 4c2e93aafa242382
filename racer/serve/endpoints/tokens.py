"""Text to tokens and back."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from racer.serve import prompts
from racer.serve.endpoints.openai import service_of
from racer.serve.errors import invalid
from racer.serve.protocol.tokens import DetokenizeRequest, TokenizeRequest

router = APIRouter()


@router.post("/tokenize")
def tokenize(request: Request, body: TokenizeRequest) -> dict[str, Any]:
    """A text, or a conversation as the model would be shown it."""
    service = service_of(request)
    service.check_model(body.model)
    if (body.prompt is None) == (body.messages is None):
        raise invalid("Give 'prompt' or 'messages', and not both.", "prompt")
    if body.messages is not None:
        tokens = prompts.of_conversation(service.loaded, body.messages, body.tools or [])
    else:
        tokens = prompts.of_text(service.loaded, body.prompt or "", special=body.add_special_tokens)
    return {"tokens": tokens, "count": len(tokens), "max_model_len": service.context}


@router.post("/detokenize")
def detokenize(request: Request, body: DetokenizeRequest) -> dict[str, Any]:
    """Tokens as text, special ones included."""
    service = service_of(request)
    service.check_model(body.model)
    tokens = prompts.of_ids(service.loaded, body.tokens, "tokens")
    text: str = service.loaded.tokenizer.decode(tokens, clean_up_tokenization_spaces=False)
    return {"prompt": text}
