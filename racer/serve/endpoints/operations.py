"""For those who run the server, and the page for its users."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import FileResponse, JSONResponse, Response

from racer.serve.endpoints.openai import service_of
from racer.serve.errors import ApiError

router = APIRouter()


@router.get("/health")
async def health(request: Request) -> Response:
    """Whether requests are taken."""
    if service_of(request).closing:
        raise service_of(request).refusal()
    return JSONResponse({"status": "ok"})


@router.get("/metrics")
def metrics(request: Request) -> Response:
    """For Prometheus."""
    return Response(service_of(request).metrics.text(), media_type=CONTENT_TYPE_LATEST)


@router.get("/")
def index(request: Request) -> Any:
    """The browser page."""
    file = service_of(request).settings.page / "index.html"
    if not file.is_file():
        raise ApiError(404, "This server has no page.")
    return FileResponse(file, headers={"Cache-Control": "no-cache"})
