"""The admin API as a whole: its routers behind the gate, and its description."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.dependencies.models import Dependant
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from starlette.routing import compile_path

from proxy.routes.admin_border import Border, is_admin, is_public
from proxy.routes.admin_errors import FAILURES, tell_errors
from proxy.routes.admin_gate import Admits, Gate, Role


def join_admin(
    app: FastAPI,
    gate: Gate,
    routers: Iterable[APIRouter],
    streamed: frozenset[str] = frozenset(),
) -> None:
    """Put routers under `/admin`; `ValueError` for a route that does not say whom it serves.

    `streamed` are the paths whose bodies may have any size, as they are not read in one piece.
    """
    for router in (_description(gate), *routers):
        _require_gates(router)
        app.include_router(router, responses=FAILURES)
    tell_errors(app, lambda path: methods_of(app, path))
    app.add_middleware(Border, gate=gate, streamed=streamed)


def _require_gates(router: APIRouter) -> None:
    for route in router.routes:
        path = getattr(route, "path", "")
        if is_public(path):
            continue
        if not isinstance(route, APIRoute) or not _is_gated(route.dependant):
            raise ValueError(f"{path or route} declares no gate")


def _is_gated(dependant: Dependant) -> bool:
    return isinstance(dependant.call, Admits) or any(map(_is_gated, dependant.dependencies))


def _description(gate: Gate) -> APIRouter:
    router = APIRouter(tags=["description"])

    @router.get("/admin/openapi.json", dependencies=[Depends(gate.admits(*Role))])
    async def openapi(request: Request) -> dict[str, Any]:
        """This description."""
        return description_of(request.app)

    return router


def methods_of(app: FastAPI, path: str) -> list[str]:
    """What may be done at a path, as the description says."""
    for template, operations in description_of(app)["paths"].items():
        if compile_path(template)[0].match(path):
            return [method.upper() for method in operations]
    return []


def description_of(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document of what is under `/admin`."""
    if app.openapi_schema is None:
        described = get_openapi(title=app.title, version=app.version, routes=app.routes)
        paths = described["paths"]
        described["paths"] = {path: paths[path] for path in paths if is_admin(path)}
        for operations in described["paths"].values():
            for operation in operations.values():
                # What FastAPI says of bad input; ours is 400, as told in FAILURES.
                operation["responses"].pop("422", None)
        for name in ("HTTPValidationError", "ValidationError"):
            described["components"]["schemas"].pop(name, None)
        app.openapi_schema = described
    return app.openapi_schema
