"""The application: endpoints, and what stands around them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio.to_thread
from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.routing import Route
from starlette.staticfiles import StaticFiles

import racer
from racer.serve import errors
from racer.serve.counting import Counting
from racer.serve.endpoints import openai, operations, tokens
from racer.serve.security import Guard
from racer.serve.service import Service


class Page(StaticFiles):
    """The browser page's files, asked for anew each time: those of two versions do not go together."""

    def file_response(self, *given: Any, **named: Any) -> Response:
        """A file, or that it is still the one that the browser has."""
        response = super().file_response(*given, **named)
        response.headers["Cache-Control"] = "no-cache"
        return response


def create_app(service: Service) -> FastAPI:
    """A server for one service. When it is shut down, so is the service, with its engine."""

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        yield
        await anyio.to_thread.run_sync(service.closed)

    # the usual documentation pages would load scripts from elsewhere
    app = FastAPI(title="RACER", version=racer.__version__, docs_url=None, redoc_url=None, lifespan=life)
    app.state.service = service
    errors.install(app)
    parts = (openai, tokens, operations)
    for part in parts:
        app.include_router(part.router)
    endpoints = frozenset(route.path for part in parts for route in part.router.routes if isinstance(route, Route))
    app.mount("/page", Page(directory=service.settings.page, check_dir=False), name="page")
    # the last one added stands outermost
    app.add_middleware(Guard, settings=service.settings)
    if service.settings.cors_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=service.settings.cors_origins, allow_methods=["*"], allow_headers=["*"]
        )
    app.add_middleware(Counting, metrics=service.metrics, endpoints=endpoints)
    return app
