"""Figures over HTTP: what was hit and saved, over time, and what Prometheus reads."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel

from proxy.charts import BUCKET_MINUTES
from proxy.ledger import KEPT_DAYS, Ledger
from proxy.routes.admin_gate import Gate, Role

# How many points a chart has at most.
MAX_POINTS = 2000
# Five minutes, as the sums of a day are kept, or many of them.
Step = Annotated[int, Query(ge=BUCKET_MINUTES, le=1440, multiple_of=BUCKET_MINUTES)]

Page = Callable[[str], Awaitable[tuple[bytes, str]]]


class Saved(BaseModel):
    """Tokens as the provider would have counted them, seconds of waiting, USD at list prices."""

    tokens: int
    seconds: float
    usd: float


class Spent(BaseModel):
    """Tokens and USD of what providers answered."""

    tokens: int
    usd: float


class Apart(BaseModel):
    """The figures of one provider, model, client or namespace."""

    requests: int
    hits: int
    misses: int
    hit_ratio: float
    saved: Saved


class Percentiles(BaseModel):
    """Seconds; estimated from counts in buckets. None where nothing was counted."""

    count: int
    p50: float | None
    p90: float | None
    p99: float | None


class Latency(BaseModel):
    hits: Percentiles
    misses: Percentiles
    upstream: Percentiles


class Stats(BaseModel):
    """All since `since`, of all processes that use the cache, or only of this one: `covers`."""

    hits: int
    misses: int
    hit_ratio: float
    entries: int | None
    bytes: int | None
    saved: Saved
    spent: Spent
    since: str
    covers: Literal["all processes", "this process"]
    requests: int
    hits_by_kind: dict[str, int]
    bypasses: int
    bypasses_by_reason: dict[str, int]
    stored: int
    refused: int
    refused_by_reason: dict[str, int]
    evictions: int
    errors: int
    errors_by_reason: dict[str, int]
    latency: Latency
    by_provider: dict[str, Apart]
    by_model: dict[str, Apart]
    by_client: dict[str, Apart]
    by_namespace: dict[str, Apart]


class Means(BaseModel):
    """Seconds, on average; None where there was nothing."""

    hits: float | None
    misses: float | None
    upstream: float | None


class Point(BaseModel):
    """What happened from `at` on, until the next step."""

    at: str
    requests: int
    hits: int
    misses: int
    bypasses: int
    errors: int
    hit_ratio: float | None
    saved: Saved
    latency: Means


class History(BaseModel):
    """Points in order; those at which nothing happened are left out."""

    covers: Literal["all processes", "this process"]
    step_minutes: int
    points: list[Point]


def figures_router(gate: Gate, ledger: Ledger) -> APIRouter:
    """The routes of figures: for the full token and the one that reads."""
    router = APIRouter(
        tags=["figures"], dependencies=[Depends(gate.admits(Role.FULL, Role.FIGURES))]
    )

    @router.get("/admin/stats")
    async def stats() -> Stats:
        """Hits, misses, and what they saved."""
        return Stats.model_validate(await ledger.stats())

    @router.get("/admin/stats/history")
    async def history(
        hours: Annotated[int, Query(ge=1, le=24 * KEPT_DAYS)] = 24,
        step_minutes: Step | None = None,
    ) -> History:
        """The same over the last hours, in steps: as was said, or as fine as a chart can show."""
        finest = next(each for each in (BUCKET_MINUTES, 15, 60) if hours * 60 <= each * MAX_POINTS)
        step = max(step_minutes or finest, finest)
        return History.model_validate(await ledger.history(hours, step))

    return router


def metrics_router(gate: Gate, page: Page, *, is_open: bool) -> APIRouter:
    """What Prometheus reads. Where it `is_open` no token is asked for: scrapers seldom have one."""
    guards = [] if is_open else [Depends(gate.admits(Role.FULL, Role.FIGURES))]
    router = APIRouter(tags=["ops"], dependencies=guards)

    @router.get("/metrics", include_in_schema=False)
    async def metrics(request: Request) -> Response:
        """All counters, of all workers of this host."""
        gate.refuse_foreign_pages(request.scope["headers"])
        body, content_type = await page(request.headers.get("accept", ""))
        return Response(body, headers={"content-type": content_type, "cache-control": "no-store"})

    return router
