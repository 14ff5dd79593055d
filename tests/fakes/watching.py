"""One who watches the events of a proxy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson

from tests.fakes.admin import READ, AdminClient


class Watching:
    """The events that one who watches is told."""

    def __init__(self) -> None:
        self._told: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

    async def read(self, lines: AsyncIterator[str]) -> None:
        async for line in lines:
            if line.startswith("data: "):
                self._told.put_nowait(orjson.loads(line[6:]))
        self._told.put_nowait(None)

    async def next(self) -> dict[str, Any] | None:
        """The next one; `None`: there are no more."""
        async with asyncio.timeout(10):
            return await self._told.get()

    async def told_within(self, seconds: float) -> list[dict[str, Any]]:
        """All that come until none has come for so long."""
        told: list[dict[str, Any]] = []
        while True:
            try:
                async with asyncio.timeout(seconds):
                    each = await self._told.get()
            except TimeoutError:
                return told
            assert each is not None
            told.append(each)


@asynccontextmanager
async def watching(origin: str, token: str = READ) -> AsyncIterator[Watching]:
    """Watch the events of the proxy there."""
    async with AdminClient(origin, token) as admin, admin.stream("GET", "/events") as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = answer.aiter_lines()
        assert await anext(lines) == ": listening"
        watcher = Watching()
        reading = asyncio.create_task(watcher.read(lines))
        try:
            yield watcher
        finally:
            reading.cancel()
            await asyncio.wait({reading})
