"""How the admin API tells errors: one shape, whatever went wrong, and nothing of what was sent."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from cache_backends.base import CacheError, Unsupported
from proxy.dialects.base import openai_error
from proxy.errors import (
    BadRequest,
    BodyTooLarge,
    CacheOutOfReach,
    NotSupported,
    NotThere,
    ProxyError,
    Unauthorized,
    UnreadableRequest,
)

_MAX_TOLD = 3  # of what is wrong with a request


class Detail(BaseModel):
    message: str
    type: Literal["llm_cache_proxy_error"]
    code: str
    param: None = None


class Failure(BaseModel):
    """What is wrong, and the way out."""

    error: Detail


# For OpenAPI: what any route may answer.
FAILURES: dict[int | str, dict[str, Any]] = {
    status: {"model": Failure, "description": description}
    for status, description in {
        400: "The request cannot be understood",
        401: "No token, or a wrong one",
        403: "Not for this token, or from another site's page",
        404: "There is no such thing, or it is somebody else's",
        405: "Not with this method",
        413: "The body is too large",
        429: "Too many wrong tokens: see Retry-After",
        501: "This kind of cache cannot do that",
        503: "The cache cannot be reached",
    }.items()
}


class _WrongMethod(ProxyError):
    status = 405
    code = "method_not_allowed"


def tell_errors(app: FastAPI, methods: Callable[[str], Sequence[str]]) -> None:
    """Have the app answer in this shape. `methods` are those that a path has."""

    async def of_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if error.status_code != 405:
            return response_of(_of_http(error))
        # Starlette names those of one route only, where several have the same path.
        allowed = methods(request.scope["path"])
        headers = {"allow": ", ".join(allowed)} if allowed else error.headers
        return response_of(_WrongMethod("Not with this method: see the header Allow."), headers)

    app.add_exception_handler(ProxyError, _of_ours)
    app.add_exception_handler(RequestValidationError, _of_validation)
    app.add_exception_handler(HTTPException, of_http)
    app.add_exception_handler(Unsupported, _of_cache)
    app.add_exception_handler(CacheError, _of_cache)


def response_of(error: ProxyError, headers: Mapping[str, str] | None = None) -> Response:
    said = dict(headers or {})
    if error.retry_after is not None:
        said["retry-after"] = str(error.retry_after)
    if isinstance(error, Unauthorized):  # RFC 9110, 11.6.1
        said["www-authenticate"] = "Bearer"
    return Response(openai_error(error), error.status, said, "application/json")


def of_cache(error: CacheError) -> ProxyError:
    """What is told of a cache that cannot do what it is asked."""
    return (
        NotSupported(str(error)) if isinstance(error, Unsupported) else CacheOutOfReach(str(error))
    )


async def _of_ours(_: Request, error: Exception) -> Response:
    assert isinstance(error, ProxyError)
    return response_of(error)


async def _of_cache(_: Request, error: Exception) -> Response:
    assert isinstance(error, CacheError)
    return response_of(of_cache(error))


async def _of_validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    errors = error.errors()
    if _is_unread(request) and any(each["type"] == "model_attributes_type" for each in errors):
        return response_of(
            UnreadableRequest("The body is read with Content-Type: application/json.")
        )
    return response_of(BadRequest(told(errors)))


def _is_unread(request: Request) -> bool:
    """Is the body said to be something else, as curl says of all that it sends?"""
    return "json" not in request.headers.get("content-type", "")


def _of_http(error: HTTPException) -> ProxyError:
    if isinstance(error.__cause__, BodyTooLarge):  # as FastAPI tells what happened while it read
        return error.__cause__
    if error.status_code == 404:
        return NotThere("There is nothing at this path: see /admin/openapi.json.")
    return UnreadableRequest("The body cannot be read: expected JSON in UTF-8.")


def told(errors: Sequence[Mapping[str, Any]]) -> str:
    """What is wrong with which field, without the values."""
    return "; ".join(_told(error) for error in errors[:_MAX_TOLD])


def _told(error: Mapping[str, Any]) -> str:
    if error["type"] == "json_invalid":
        return f"The body is not JSON: {error['ctx']['error']}."
    where = ".".join(str(part)[:40] for part in error["loc"][1:]) or str(error["loc"][0])
    if error["type"] == "extra_forbidden":
        return f"{where}: there is no such field"
    return f"{where}: {error['msg'].removeprefix('Value error, ')}"
