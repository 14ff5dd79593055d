"""`/admin/export`, `/admin/import`, `/admin/warm`: entries by the line, out and in, any number."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse, Response

from cache_backends.base import CacheError
from proxy.catalogue import Catalogue
from proxy.models import Scope
from proxy.routes.admin_errors import of_cache
from proxy.routes.admin_filters import Filters
from proxy.routes.admin_gate import Gate, Role, Visitor
from proxy.routes.admin_streams import NDJSON, Lines, Upload
from proxy.transfer import Imported, Importer, Rebind, export
from proxy.warming import MAX_CONCURRENCY, Warmer

# The paths whose bodies may have any size.
STREAMED = frozenset({"/admin/import", "/admin/warm"})
# How often an import tells how far it is.
TELL_S = 1.0

log = logging.getLogger("proxy.admin")

Rebinding = Callable[[str, str | None], Rebind]  # by scope and credential; raises ProxyError
Warming = Callable[..., Warmer]

_LINES: dict[str, Any] = {NDJSON: {"schema": {"type": "string"}}}
# Any media type will do, and any line: what is wrong with one is told of it.
_BODY: dict[str, Any] = {
    "requestBody": {"content": {NDJSON: {"schema": {}}, "text/plain": {"schema": {}}}}
}
# No parameter of the description: what lists those may keep their values, too.
CREDENTIAL = "x-llm-cache-credential"


class Exported(Filters):
    cursor: str | None = Field(None, min_length=1, max_length=2000)
    """Where an export was interrupted: of its last line with a cursor."""


class ImportQuery(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    scope: str | None = Field(None, max_length=200, pattern="^(shared|credential|client:.+)$")
    """Whom the entries are for from now on: shared, client:NAME, or credential: then him who
    presents the one in X-LLM-Cache-Credential. Unsaid: those for whom they were made."""


class WarmQuery(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    path: str = Field("", max_length=2000)
    """Where bodies are sent that do not say it themselves: /v1/chat/completions."""
    concurrency: int = Field(4, ge=1, le=MAX_CONCURRENCY)
    rate: float | None = Field(None, gt=0, le=1e6, allow_inf_nan=False)
    """Requests a second, at most."""


class Failed(BaseModel):
    line: int
    error: str


class ImportSums(BaseModel):
    """What became of the lines. `failed` tells the first of the `failures`. `unreachable`: of
    entries for who presents a credential, those of a cache with another scope secret, and all that
    are for others than `cache.scope` says: nobody finds them here, unless they are imported with a
    `scope`."""

    lines: int
    imported: int
    skipped: int
    unreachable: int
    failures: int
    failed: list[Failed]


def transfer_router(
    gate: Gate,
    catalogue: Catalogue,
    dialects: Mapping[str, str],
    *,
    scopes: Callable[[], str],
    scope: Scope,
    rebinding: Rebinding,
    warming: Warming,
    clock: Callable[[], float] = time.time,
) -> APIRouter:
    """`scope` says how callers are parted, `scopes` marks the secret for that; `warming` makes a
    Warmer of path, credential, concurrency and rate."""
    router = APIRouter(prefix="/admin", tags=["transfer"])
    full = Depends(gate.admits(Role.FULL))

    @router.get("/export", response_class=Response, responses={200: {"content": _LINES}})
    async def export_entries(
        which: Annotated[Exported, Query()], visitor: Visitor = full
    ) -> StreamingResponse:
        """All entries that fit, one on a line. After each hundred or so a line says where to go on
        should it be interrupted; at the end its cursor is null."""
        selection = which.selection(visitor, dialects)
        lines = export(catalogue, selection, which.cursor, scopes=scopes())
        first = await anext(lines)  # what is wrong is told by the status
        log.info("%s exports entries: %s", visitor.who, which.for_logs())
        return StreamingResponse(_with_first(first, lines), media_type=NDJSON)

    @router.post(
        "/import",
        openapi_extra=_BODY,
        response_model=ImportSums,
        responses={200: {"content": _LINES}},
    )
    async def import_entries(
        request: Request,
        said: Annotated[ImportQuery, Query()],
        visitor: Visitor = full,
    ) -> Response:
        """Take in the lines of an export. Run again, it changes nothing. With `Accept:
        application/x-ndjson` it tells how far it is."""
        rebind = (
            None if said.scope is None else rebinding(said.scope, request.headers.get(CREDENTIAL))
        )
        importer = Importer(catalogue, rebind=rebind, scopes=scopes(), scope=scope, clock=clock)
        upload = Upload(request.receive)
        sums = importer.run(upload.pieces())
        if NDJSON in request.headers.get("accept", ""):
            return Lines(_progress(sums, visitor), upload)
        try:
            async for _ in sums:
                pass
        finally:
            _log_import(visitor, importer.sums)
        return JSONResponse(asdict(importer.sums))

    @router.post(
        "/warm",
        openapi_extra=_BODY,
        response_class=Response,
        responses={200: {"content": _LINES}},
    )
    async def warm(
        request: Request,
        said: Annotated[WarmQuery, Query()],
        visitor: Visitor = full,
    ) -> Lines:
        """Ask the requests on these lines, so that they hit from then on; the header
        X-LLM-Cache-Credential has the key to ask with. Tells what became of each line as it is
        known, and of all at last."""
        warmer = warming(
            path=said.path,
            credential=request.headers.get(CREDENTIAL),
            concurrency=said.concurrency,
            rate=said.rate,
        )
        log.info("%s warms the cache", visitor.who)
        upload = Upload(request.receive)
        return Lines(warmer.run(upload.pieces()), upload)

    return router


async def _with_first(first: bytes, lines: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for line in lines:
        yield line


async def _progress(
    sums: AsyncIterator[Imported], visitor: Visitor
) -> AsyncIterator[Mapping[str, Any]]:
    """How far it is, once a second; what became of it at last, or what went wrong."""
    told_at = time.monotonic()
    latest = Imported()
    try:
        async for latest in sums:
            if time.monotonic() - told_at >= TELL_S:
                told_at = time.monotonic()
                yield {
                    "lines": latest.lines,
                    "imported": latest.imported,
                    "skipped": latest.skipped,
                    "failures": latest.failures,
                }
    except CacheError as error:
        yield {"error": {"message": str(error), "code": of_cache(error).code}}
        return
    finally:
        _log_import(visitor, latest)
    yield {"done": True, **asdict(latest)}


def _log_import(visitor: Visitor, sums: Imported) -> None:
    log.info(
        "%s imported %d entries; %d skipped, %d lines failed",
        visitor.who,
        sums.imported,
        sums.skipped,
        sums.failures,
    )
