"""The border of `/admin`: who has no token gets no further, and what comes out is safe to show.

Plain ASGI around the routes: it holds for all that is under the path, also for what is not there.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Mapping
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from proxy.errors import BodyTooLarge, ProxyError
from proxy.routes.admin_errors import response_of
from proxy.routes.admin_gate import VISITOR, Gate, Role, Visitor
from proxy.routes.caller import ABORT_EXTENSION

ROOT = "/admin"
# The page and what belongs to it: there is no data in them.
PAGE = "/admin/"
STATIC = "/admin/static/"

# A body that is read in one piece: an answer of the largest allowed size, as it may be put right.
MAX_BODY_BYTES = 128 * 2**20
# Who only asks has no answer to send, and a body takes some fifty times its size while it is read.
MAX_ASKED_BYTES = 4 * 2**20

_SAFE: Mapping[str, str] = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}

log = logging.getLogger("proxy.admin")


class Border:
    """Middleware. `streamed` are the paths whose bodies may have any size."""

    def __init__(self, app: ASGIApp, *, gate: Gate, streamed: frozenset[str] = frozenset()) -> None:
        self._app = app
        self._gate = gate
        self._streamed = streamed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not is_admin(scope["path"]):
            await self._app(scope, receive, send)
            return
        started = False

        async def send_safely(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(raw=list(message.get("headers", ())))
                for name, value in _SAFE.items():
                    headers.setdefault(name, value)
                message = {**message, "headers": headers.raw}
            await send(message)

        try:
            public = is_public(scope["path"])
            self._gate.refuse_foreign_pages(
                scope["headers"], may_link=public and scope["method"] == "GET"
            )
            if not public:
                scope[VISITOR] = self._gate.visitor(scope["headers"], address_of(scope))
            await self._app(scope, self._bounded(scope, receive), send_safely)
        except ClientDisconnect:
            return
        except ProxyError as error:
            if started:
                _cut(scope)
            else:
                await response_of(error)(scope, receive, send_safely)
        except Exception as error:  # noqa: BLE001 - an answer with a body, whatever happened
            _log(scope, error)
            if started:
                _cut(scope)
            else:
                fault = ProxyError("The admin API failed: its log says why.")
                await response_of(fault)(scope, receive, send_safely)

    def _bounded(self, scope: Scope, receive: Receive) -> Receive:
        visitor: Visitor | None = scope.get(VISITOR)
        is_full = visitor is not None and visitor.role is Role.FULL
        if is_full and scope["path"] in self._streamed:
            return receive
        most = MAX_BODY_BYTES if is_full else MAX_ASKED_BYTES
        size = 0

        async def receive_some() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > most:
                raise BodyTooLarge(f"At most {most} bytes are read here.")
            return message

        return receive_some


def is_admin(path: str) -> bool:
    return path == ROOT or path.startswith(PAGE)


def is_public(path: str) -> bool:
    return path in (ROOT, PAGE) or path.startswith(STATIC)


def address_of(scope: Mapping[str, Any]) -> str:
    """The caller's; "" at a Unix socket."""
    client = scope.get("client")
    return str(client[0] or "") if client else ""


def _cut(scope: Scope) -> None:
    """Nobody must take a part for the whole."""
    abort = (scope.get("extensions") or {}).get(ABORT_EXTENSION)
    if abort is not None:
        abort["abort"]()


def _log(scope: Scope, error: Exception) -> None:
    # Not the error's own text: it may hold what was stored.
    where = "".join(traceback.format_tb(error.__traceback__))
    log.error("%s %r: %s\n%s", scope["method"], scope["path"], type(error).__name__, where)
