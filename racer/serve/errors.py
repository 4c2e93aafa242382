"""Errors in OpenAI's shape, and nothing of the server's insides in them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from racer.errors import ConfigError, EngineClosed, EngineFull, RacerError, RequestTooLong

log = logging.getLogger(__name__)

RETRY_SECONDS = 1
"""What a client is told to wait when the queue is full; a row ends about as often."""
ONCE = {"x-should-retry": "false"}
"""OpenAI's clients ask again after a 5xx, unless they are told that it would be of no use."""


class ApiError(RacerError, HTTPException):
    """What a client is told: a status, and OpenAI's four fields.

    :param param: the field of the request that is to blame.
    :param code: a short name for programs.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        HTTPException.__init__(self, status, message, dict(headers) if headers else None)
        # what is quoted of a request may hold half a character, which cannot be sent
        self.fields = {"message": _whole(message), "type": kind, "param": param and _whole(param), "code": code}

    @property
    def body(self) -> dict[str, Any]:
        """As it is sent."""
        return {"error": self.fields}

    def response(self) -> JSONResponse:
        """The whole answer."""
        return JSONResponse(self.body, self.status_code, headers=self.headers)


def _whole(text: str) -> str:
    return text.encode(errors="replace").decode()


def invalid(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """The request itself is wrong."""
    return ApiError(400, message, param=param, code=code)


def unavailable() -> ApiError:
    """The server is being stopped."""
    return ApiError(503, "The server is shutting down.", kind="server_error", code="shutting_down")


def broken() -> ApiError:
    """The engine has failed beyond repair; the log has it."""
    message = "The server's engine has failed: it must be started again."
    return ApiError(503, message, kind="server_error", code="engine_failed", headers=ONCE)


def timed_out(seconds: float) -> ApiError:
    """The answer took too long."""
    message = f"The request was stopped: it had not ended after {seconds:g} s."
    return ApiError(504, message, kind="server_error", code="timeout", headers=ONCE)


def internal() -> ApiError:
    """A bug, or a failure of the machine; the log has it."""
    return ApiError(500, "The server had an error while processing your request.", kind="server_error", headers=ONCE)


def refused(error: Exception) -> ApiError:
    """What the engine raised when it was asked, as it is told; what has to be logged is logged.

    :param error: raised by ``engine.submit``, which raises ConfigError, ValueError and TypeError for wrong settings.
    """
    if isinstance(error, ApiError):
        return error
    if isinstance(error, EngineFull):
        wait = {"Retry-After": str(RETRY_SECONDS)}
        message = "The queue is full: try again later."
        return ApiError(503, message, kind="server_error", code="queue_full", headers=wait)
    if isinstance(error, EngineClosed):
        return _closed(error)
    if isinstance(error, RequestTooLong):
        return invalid(str(error), code="context_length_exceeded")
    if isinstance(error, ConfigError):
        return invalid(str(error))
    if isinstance(error, ValueError | TypeError):  # transformers' checks, mostly: a bug of ours looks the same
        log.warning("a request was refused", exc_info=error)
        return invalid(str(error))
    log.error("a request could not be submitted", exc_info=error)
    return internal()


def failed(error: BaseException) -> ApiError:
    """What ended an answer that had begun, as it is told; what has to be logged is logged."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, EngineClosed):
        return _closed(error)
    log.error("a request has failed", exc_info=error)
    return internal()


def _closed(error: EngineClosed) -> ApiError:
    """The engine names what it failed with, where it was not just closed."""
    return unavailable() if error.__cause__ is None else broken()


def install(app: FastAPI) -> None:
    """Have every error of ``app`` told in that shape."""
    app.add_exception_handler(HTTPException, _told)
    app.add_exception_handler(RequestValidationError, _invalid_body)
    app.add_exception_handler(Exception, _bug)


async def _told(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if isinstance(error, ApiError):
        return error.response()
    asked = f"{request.method} {request.url.path}"
    if error.status_code == 404:
        return ApiError(404, f"Invalid URL ({asked})").response()
    if error.status_code == 405:
        told = ApiError(405, f"Invalid method for URL ({asked})", code="method_not_supported", headers=error.headers)
        return told.response()
    return ApiError(error.status_code, str(error.detail), headers=error.headers).response()


async def _invalid_body(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return of_validation(first).response()


async def _bug(request: Request, error: Exception) -> JSONResponse:
    return internal().response()  # Starlette raises it again behind this, and so it is logged


def of_validation(found: Mapping[str, Any]) -> ApiError:
    """One of pydantic's errors."""
    if found["type"] == "json_invalid":
        reason = found.get("ctx", {}).get("error", "it is not JSON")
        return invalid(f"We could not parse the JSON body of your request: {reason}.")
    param = path(found["loc"]) or None
    if param is None:
        return invalid(f"The body of the request must be a JSON object: {found['msg'][:1].lower()}{found['msg'][1:]}.")
    if found["type"] == "extra_forbidden":
        return invalid(f"Unrecognized request argument supplied: {param}", param, "unknown_parameter")
    if found["type"] == "missing":
        return invalid(f"You must provide '{param}'.", param, "missing_required_parameter")
    if found["type"] == "unsupported_parameter":
        return invalid(f"'{param}' {found['msg']}", param, "unsupported_parameter")
    return invalid(f"Invalid '{param}': {found['msg'][:1].lower()}{found['msg'][1:]}.", param, "invalid_value")


def path(places: Sequence[str | int]) -> str:
    """``("body", "messages", 0, "role")`` as ``messages[0].role``; names of alternatives, in ``<>``, are left out."""
    named = ""
    for place in places:
        if isinstance(place, int):
            named += f"[{place}]"
        elif place != "body" and not place.startswith("<"):
            named += f".{place}" if named else place
    return named
