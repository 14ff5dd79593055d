"""Health: is the process there, can it serve, and does its cache answer?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fastapi import APIRouter, Response

OPS_PATHS = frozenset({"/healthz", "/readyz", "/metrics", "/admin"})
ADMIN = "/admin/"


@dataclass(slots=True)
class Health:
    """What the probes are told. `degraded` says why the cache cannot be used, or ""."""

    degraded: Callable[[], str]
    started: bool = False
    draining: bool = False


def ops_router(health: Health) -> APIRouter:
    """The routes of health probes."""
    router = APIRouter(tags=["ops"])

    @router.get("/healthz")
    async def healthz() -> dict[str, str]:
        """The process runs and its loop turns."""
        return {"status": "ok"}

    @router.get("/readyz")
    async def readyz(response: Response) -> dict[str, str]:
        """Requests are served; also when the cache is down, for they are answered all the same."""
        if not health.started or health.draining:
            response.status_code = 503
            return {"status": "draining" if health.draining else "starting"}
        reason = health.degraded()
        return {"status": "degraded", "reason": reason} if reason else {"status": "ready"}

    return router
