"""Serves an ASGI app on a real socket, in the loop of the test."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import uvicorn

# Turns of the loop in which an idle connection closes.
CLOSING_TURNS = 5

# `await serve(app)` returns the origin, as the fixture does it.
Serve = Callable[..., Awaitable[str]]


class _Uvicorn(uvicorn.Server):
    """Leaves signals to pytest, and stops at once where uvicorn looks ten times a second."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.stopping = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def main_loop(self) -> None:
        await self.on_tick(0)
        await self.stopping.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self.server_state.tasks:
            await super().shutdown(sockets)
            return
        # Nothing runs: there is no need to sleep a tenth of a second, as uvicorn does.
        for listening in (*self.servers, *(sockets or ())):
            listening.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        for _ in range(CLOSING_TURNS):
            await asyncio.sleep(0)
        await self.lifespan.shutdown()


class AppServer:
    """One app on a port of its own between `start` and `stop`, with its lifespan."""

    def __init__(self, app: Any, **options: Any) -> None:
        # asyncio turns Nagle's algorithm off only where it sees that this is TCP.
        self._socket = socket.socket(proto=socket.IPPROTO_TCP)
        self._socket.bind(("127.0.0.1", 0))
        self.origin = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        defaults = {"log_config": None, "access_log": False, "timeout_graceful_shutdown": 1}
        self._server = _Uvicorn(uvicorn.Config(app, **defaults | {"lifespan": "on"} | options))
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._server.serve(sockets=[self._socket]))
        while not self._server.started:
            if self._task.done():
                await self._task
                raise RuntimeError("the app did not start")
            await asyncio.sleep(0.001)

    async def stop(self) -> None:
        """Stop as on SIGTERM: running requests have a second, then the lifespan ends."""
        self._server.stopping.set()
        if self._task is not None:
            await self._task
