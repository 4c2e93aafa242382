"""OpenAI's endpoints."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from racer.serve import jobs
from racer.serve.answers.chat import ChatAnswer
from racer.serve.answers.completions import CompletionAnswer
from racer.serve.endpoints.responses import respond
from racer.serve.errors import invalid
from racer.serve.protocol.chat import ChatRequest
from racer.serve.protocol.completions import CompletionRequest
from racer.serve.protocol.fields import Generation
from racer.serve.service import Service

router = APIRouter(prefix="/v1")


def service_of(request: Request) -> Service:
    """The server's."""
    service: Service = request.app.state.service
    return service


@router.get("/models")
async def models(request: Request) -> dict[str, Any]:
    """The one model that there is."""
    return {"object": "list", "data": [service_of(request).card]}


@router.get("/models/{name:path}")
async def model(request: Request, name: str) -> dict[str, Any]:
    """The same by its name."""
    service_of(request).check_model(name)
    return service_of(request).card


@router.post("/chat/completions")
async def chat(request: Request, body: ChatRequest) -> Response:
    """Go on with a conversation."""
    service = service_of(request)
    service.check_model(body.model)
    tenant = _tenant(request, body)
    answer = await service.answer(lambda: jobs.of_chat(service.loaded, body, tenant))
    told = ChatAnswer(body, answer, service.settings.served_name, service.names)
    return await respond(request, told, stream=bool(body.stream))


@router.post("/completions")
async def completions(request: Request, body: CompletionRequest) -> Response:
    """Go on with a text."""
    service = service_of(request)
    service.check_model(body.model)
    tenant = _tenant(request, body)
    answer = await service.answer(lambda: jobs.of_completion(service.loaded, body, tenant))
    told = CompletionAnswer(body, answer, service.settings.served_name, service.names)
    return await respond(request, told, stream=bool(body.stream))


def _tenant(request: Request, body: Generation) -> Hashable:
    """Whose text it is. With keys, each is a tenant: what a client says of itself would let it in with others.

    :raises ApiError: there are keys, and the request names a tenant.
    """
    key: int | None = request.state.key
    if key is None:
        return body.own.tenant
    if body.own.tenant is not None:
        raise invalid("each API key is a tenant of its own here: leave 'tenant' out.", "racer.tenant")
    return ("key", key)
