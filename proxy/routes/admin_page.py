"""The page at `/admin/`, and the files that belong to it: the same for everybody, without data."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.resources import files
from typing import NamedTuple

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from proxy.errors import NotThere

INDEX = "index.html"

_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
# What models say is shown on this page: nothing of it can run, load anything or send it elsewhere.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)


class File(NamedTuple):
    content: bytes
    type: str
    etag: str


def page_router() -> APIRouter:
    """The routes of the page. Files are read once: what is not among them is not there."""
    router, known = APIRouter(tags=["page"]), read_files()

    @router.api_route("/admin", methods=["GET", "HEAD"], include_in_schema=False)
    async def root() -> Response:
        return RedirectResponse("admin/", 308)  # relative: something may stand before our paths

    @router.api_route("/admin/", methods=["GET", "HEAD"], include_in_schema=False)
    async def page(request: Request) -> Response:
        return _answer(request, known[INDEX])

    @router.api_route("/admin/static/{name:path}", methods=["GET", "HEAD"], include_in_schema=False)
    async def static(request: Request, name: str) -> Response:
        if name == INDEX or name not in known:
            raise NotThere("There is no such file.")
        return _answer(request, known[name])

    return router


def read_files() -> Mapping[str, File]:
    """The page's files by their names."""
    found = {}
    for each in files("proxy").joinpath("dashboard").iterdir():
        kind = _TYPES.get(each.name.rpartition(".")[2])
        if kind is not None:
            content = each.read_bytes()
            found[each.name] = File(content, kind, f'"{hashlib.sha256(content).hexdigest()[:32]}"')
    return found


def _answer(request: Request, file: File) -> Response:
    headers = {
        "content-security-policy": _POLICY,
        "cache-control": "no-cache",  # a newer version of the proxy has newer files
        "etag": file.etag,
    }
    if file.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(file.content, headers=headers, media_type=file.type)
