"""`/admin/events`: each request of this host as it ends, told as server-sent events."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import StreamingResponse
from starlette.responses import Response

from proxy.broadcast import Broadcast, Listener
from proxy.models import Headers
from proxy.routes.admin_gate import Gate, Role, Visitor
from proxy.siblings import Siblings, is_relayed

PATH = "/admin/events"
EVENTS = "text/event-stream"
# How often it is seen to whether the proxy drains, and to workers that have come.
LOOK_S = 0.5
# Who watches knows that he is still connected, and so do proxies in between.
ALIVE_S = 15.0

_TOLD = {"content": {EVENTS: {"schema": {"type": "string"}}}}
_DESCRIPTION: dict[int | str, dict[str, Any]] = {200: _TOLD}


def events_router(
    gate: Gate, broadcast: Broadcast, siblings: Siblings, draining: Callable[[], bool]
) -> APIRouter:
    router = APIRouter(tags=["events"])
    seen = Depends(gate.admits(Role.FULL, Role.FIGURES))

    @router.get(PATH, response_class=Response, responses=_DESCRIPTION)
    async def events(request: Request, _: Visitor = seen) -> StreamingResponse:
        """One line for each request from now on, as in the log: time, model, outcome, age, sizes,
        latency; no prompts. Who reads too slowly is told how many he missed."""
        watching = _watch(broadcast, siblings, request.scope["headers"], draining)
        first = await anext(watching)  # what is wrong is told by the status
        return StreamingResponse(_with_first(first, watching), media_type=EVENTS)

    return router


async def _with_first(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for each in rest:
        yield each


async def _watch(
    broadcast: Broadcast, siblings: Siblings, headers: Headers, draining: Callable[[], bool]
) -> AsyncIterator[bytes]:
    with broadcast.listener() as listener:
        relays = Relays(siblings, headers, listener)
        try:
            yield b": listening\n\n"
            told_at = time.monotonic()
            while not draining():
                relays.look()
                lines = await listener.next(LOOK_S)
                if lines:
                    told_at = time.monotonic()
                    yield b"".join(f"data: {line}\n\n".encode() for line in lines)
                elif time.monotonic() - told_at >= ALIVE_S:
                    told_at = time.monotonic()
                    yield b": alive\n\n"
        finally:
            await relays.aclose()


class Relays:
    """Hands on to a listener what the other workers tell."""

    def __init__(self, siblings: Siblings, headers: Headers, listener: Listener) -> None:
        self._siblings = siblings
        self._headers = headers
        self._listener = listener
        self._first = not is_relayed(headers)
        self._following: dict[Path, asyncio.Task[None]] = {}

    def look(self) -> None:
        """Follow those who are new, and forget those who have gone."""
        for place in [each for each, task in self._following.items() if task.done()]:
            del self._following[place]
        for place in self._siblings.others() if self._first else ():
            if place not in self._following:
                self._following[place] = asyncio.create_task(self._follow(place))

    async def aclose(self) -> None:
        for task in self._following.values():
            task.cancel()
        await asyncio.gather(*self._following.values(), return_exceptions=True)

    async def _follow(self, place: Path) -> None:
        with suppress(OSError):  # one that has just ended, or not begun
            async for line in self._siblings.follow(place, PATH, self._headers):
                self._listener.tell(line)
