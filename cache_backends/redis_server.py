"""What Redis commands are sent to from one event loop: a server, or the one that sentinels name.

A connection serves one caller at a time. One on which something went wrong, or whose caller was
cancelled, is closed: what it still brings would be the answer to another's question.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from redis import exceptions
from redis.asyncio import ConnectionPool, Sentinel
from redis.asyncio.connection import Connection, SSLConnection
from redis.asyncio.sentinel import SentinelConnectionPool

from cache_backends.redis_place import Place

# One thing to ask: the command's name and its arguments.
Command = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Scan:
    """How far all keys were gone through: at which node, and its own cursor."""

    node: int = 0
    cursor: int = 0


class Server(Protocol):
    async def run(self, commands: Sequence[Command]) -> list[Any]:
        """Send all, and return the replies in order; an error reply is returned, not raised."""

    async def scan(self, at: Scan, pattern: str, count: int) -> tuple[list[bytes], Scan]:
        """Return some of the keys that fit, and where to go on."""

    async def aclose(self) -> None: ...


class Single:
    """One server; `pool` is redis-py's."""

    def __init__(self, pool: Any) -> None:  # its methods have no types
        self._pool = pool

    @classmethod
    def at(cls, host: str, port: int, *, tls: bool, options: dict[str, Any]) -> Single:
        kind = SSLConnection if tls else Connection
        return cls(ConnectionPool(kind, host=host, port=port, driver_info=None, **options))

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        connection = await self._pool.get_connection()
        whole = False
        try:
            await _send(connection, connection.pack_commands(commands))
            replies = [await _reply(connection) for _ in commands]
            whole = True
            return replies
        finally:
            if not whole:
                await connection.disconnect(nowait=True)
            await self._pool.release(connection)

    async def scan(self, at: Scan, pattern: str, count: int) -> tuple[list[bytes], Scan]:
        (reply,) = await self.run([("SCAN", at.cursor, "MATCH", pattern, "COUNT", count)])
        if isinstance(reply, Exception):
            raise reply
        return reply[1], Scan(at.node, int(reply[0]))

    async def aclose(self) -> None:
        await self._pool.disconnect()


class Watched(Single):
    """The server that the sentinels name at the time."""

    def __init__(self, pool: Any, sentinel: Any) -> None:
        super().__init__(pool)
        self._sentinel = sentinel

    @classmethod
    def of(cls, place: Place, options: dict[str, Any]) -> Watched:
        asked = {name: options[name] for name in _ALSO_FOR_SENTINELS}
        for name in ("username", "password"):
            if (value := options.pop(f"sentinel_{name}", None)) is not None:
                asked[name] = value
        make_sentinel: Any = Sentinel  # neither has types
        make_pool: Any = SentinelConnectionPool
        sentinel = make_sentinel(place.hosts, sentinel_kwargs=asked)
        pool = make_pool(place.service, sentinel, ssl=place.tls, driver_info=None, **options)
        return cls(pool, sentinel)

    async def aclose(self) -> None:
        await super().aclose()
        await self._sentinel.aclose()


_ALSO_FOR_SENTINELS = ("socket_timeout", "socket_connect_timeout", "retry", "protocol")


async def _send(connection: Any, packed: Any) -> None:
    try:
        await connection.send_packed_command(packed)
    except exceptions.ConnectionError:
        # It was reset while nobody used it, which is seen only now. What we send may arrive twice
        # without harm, or is one script, which is carried out only when all of it has arrived.
        await connection.connect()
        await connection.send_packed_command(packed)


async def _reply(connection: Any) -> Any:
    try:
        return await connection.read_response()
    except exceptions.ResponseError as exc:
        return exc
