"""Connections to Redis: a set of them for each event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from cache_backends.base import CacheError
from cache_backends.redis_cluster import Cluster
from cache_backends.redis_errors import is_wrong_type, reason, unwrapped
from cache_backends.redis_place import Place
from cache_backends.redis_server import Command, Scan, Server, Single, Watched

# The reply about a key that holds something else than what is asked for.
WRONG_TYPE = object()


class Connections:
    """Sends commands to `place` from whatever loop they are asked on.

    At most `most` callers of a loop are served at once, the others wait for `timeout` seconds.
    Connections close when their loop ends (`asyncio.run` sees to it) or with `aclose`.
    """

    def __init__(self, place: Place, *, timeout: float, most: int) -> None:
        self._place = place
        self._timeout = timeout
        self._most = most
        self._used: dict[asyncio.AbstractEventLoop, _Used] = {}
        self._closed = False

    @property
    def clustered(self) -> bool:
        return self._place.kind == "cluster"

    async def run(self, *commands: Command) -> list[Any]:
        """Return the replies in order; `CacheError` if any of them is an error.

        All are sent at once. Whatever fails, some may have been carried out.
        """
        replies = await self.read(*commands)
        if WRONG_TYPE in replies:
            raise CacheError(f"{self._place.shown} holds something else under a key of the cache")
        return replies

    async def run_together(self, *commands: Command) -> list[Any]:
        """As `run`, with nobody else's between them. A cluster cannot, but for keys of one slot."""
        *_, replies = await self.run(("MULTI",), *commands, ("EXEC",))
        return list(replies)

    async def read(self, *commands: Command) -> list[Any]:
        """As `run`, with `WRONG_TYPE` where a key holds something else than is asked for."""
        if not commands:
            return []
        async with self._serving() as server:
            return [_checked(reply) for reply in await server.run(commands)]

    async def scan(self, at: Scan, pattern: str, count: int) -> tuple[list[bytes], Scan]:
        async with self._serving() as server:
            return await server.scan(at, pattern, count)

    async def aclose(self) -> None:
        """Close the connections of all loops; those of other loops in their own time."""
        await self._close_here()
        self.close_soon()

    def close_soon(self) -> None:
        """Have each loop close its connections. Nobody waits for that."""
        self._closed = True
        for loop in list(self._used):
            if loop.is_running():
                asyncio.run_coroutine_threadsafe(self._close_here(), loop)

    async def _close_here(self) -> None:
        self._closed = True
        used = self._used.pop(asyncio.get_running_loop(), None)
        if used is not None:
            await used.life.aclose()

    @asynccontextmanager
    async def _serving(self) -> AsyncGenerator[Server, None]:
        used = await self._here()
        try:
            async with asyncio.timeout(self._timeout if used.places.locked() else None):
                await used.places.acquire()
        except TimeoutError as exc:
            raise CacheError(f"{self._place.shown} has no connection left") from exc
        try:
            yield used.server
        except CacheError:
            raise
        except Exception as exc:
            raise CacheError(f"{self._place.shown} {reason(exc)}") from exc
        finally:
            used.places.release()

    async def _here(self) -> _Used:
        if self._closed:
            raise CacheError(f"{self._place.shown} is closed")
        loop = asyncio.get_running_loop()
        used = self._used.get(loop)
        if used is None:
            for ended in [each for each in self._used if each.is_closed()]:
                self._used.pop(ended, None)
            server = self._server()
            used = _Used(server, asyncio.Semaphore(self._most), _life(server, loop, self._used))
            self._used[loop] = used
            await anext(used.life)
        return used

    def _server(self) -> Server:
        options = {
            "socket_timeout": self._timeout,
            "socket_connect_timeout": self._timeout,
            **self._place.options,
            "retry": Retry(NoBackoff(), 0),
            "protocol": 2,
            "decode_responses": False,
        }
        if self._place.kind == "sentinel":
            return Watched.of(self._place, options)
        if self._place.kind == "cluster":
            return Cluster(self._place, options)
        ((host, port),) = self._place.hosts
        return Single.at(host, port, tls=self._place.tls, options=options)


def _checked(reply: Any) -> Any:
    if isinstance(reply, list):  # also those of a transaction
        return WRONG_TYPE if WRONG_TYPE in map(_checked, reply) else reply
    if not isinstance(reply, Exception):
        return reply
    if is_wrong_type(reply):
        return WRONG_TYPE
    raise unwrapped(reply)


@dataclass(frozen=True, slots=True)
class _Used:
    """What one loop uses."""

    server: Server
    places: asyncio.Semaphore
    life: AsyncGenerator[None, None]


async def _life(
    server: Server, loop: asyncio.AbstractEventLoop, used: dict[asyncio.AbstractEventLoop, _Used]
) -> AsyncGenerator[None, None]:
    # A loop closes the async generators that were begun in it before it ends, and those that were
    # dropped: this is how connections learn of both.
    try:
        yield
    finally:
        used.pop(loop, None)
        await server.aclose()
