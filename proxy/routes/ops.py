"""Health: is the process there, can it serve, and does its cache answer?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from fastapi import APIRouter, Response

OPS_PATHS = frozenset({"/healthz", "/readyz", "/metrics", "/admin"})
ADMIN = "/admin/"


class Cache(Protocol):
    """What is asked of the cache's state."""

    @property
    def degraded(self) -> str: ...

    @property
    def state(self) -> str: ...


@dataclass(slots=True)
class Health:
    """What the probes are told. `tier` names the cache."""

    cache: Cache
    tier: str = ""
    started: bool = False
    draining: bool = False

    def as_json(self) -> dict[str, Any]:
        """How the cache is, and what failed last."""
        cache = {"name": self.tier, "state": self.cache.state}
        if not (reason := self.cache.degraded):
            return {"status": "ready", "cache": cache}
        return {"status": "degraded", "reason": reason, "cache": {**cache, "failed": reason}}


def ops_router(health: Health) -> APIRouter:
    """The routes of health probes."""
    router = APIRouter(tags=["ops"])

    @router.get("/healthz")
    async def healthz() -> dict[str, str]:
        """The process runs and its loop turns."""
        return {"status": "ok"}

    @router.get("/readyz")
    async def readyz(response: Response) -> dict[str, Any]:
        """Requests are served; also when the cache is down, for they are answered all the same."""
        if not health.started or health.draining:
            response.status_code = 503
            return {"status": "draining" if health.draining else "starting"}
        return health.as_json()

    return router
