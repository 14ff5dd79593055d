"""A provider at the level of bytes: each test scripts what its socket does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from ssl import SSLContext
from typing import Self


@dataclass
class Exchange:
    """One request on a connection, its head read, its body not."""

    head: bytes
    number: int  # on its connection, from 1
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @property
    def lines(self) -> list[bytes]:
        return self.head.removesuffix(b"\r\n\r\n").split(b"\r\n")

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body, as its framing says."""
        head = self.head.lower()
        if b"transfer-encoding: chunked" in head:
            while size := int(await self.reader.readline(), 16):
                yield await self.reader.readexactly(size)
                await self.reader.readline()
            await self.reader.readline()
        elif b"content-length: " in head:
            left = int(head.partition(b"content-length: ")[2].split()[0])
            while left:
                if not (piece := await self.reader.read(min(left, 2**16))):
                    raise asyncio.IncompleteReadError(b"", left)
                left -= len(piece)
                yield piece

    async def body(self) -> bytes:
        return b"".join([piece async for piece in self.pieces()])

    async def say(self, *parts: bytes) -> None:
        for part in parts:
            self.writer.write(part)
            await self.writer.drain()

    def hang_up(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        self.writer.transport.abort()


Script = Callable[[Exchange], Awaitable[None]]


def reply(body: bytes, *headers: bytes, status: bytes = b"200 OK") -> bytes:
    """A whole response with a Content-Length."""
    lines = [b"HTTP/1.1 " + status, b"content-length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def saying(*parts: bytes) -> Script:
    """A script that reads each request to its end and then says these bytes."""

    async def script(exchange: Exchange) -> None:
        await exchange.body()
        await exchange.say(*parts)

    return script


class RawUpstream:
    """`async with RawUpstream(script) as upstream`: a server on a port of its own."""

    def __init__(self, script: Script, *, ssl: SSLContext | None = None) -> None:
        self._script = script
        self._ssl = ssl
        self._connections: set[asyncio.Task[None]] = set()
        self.exchanges: list[Exchange] = []
        self.connections = 0
        self.origin = ""

    @property
    def open(self) -> int:
        return len(self._connections)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", 0, ssl=self._ssl, backlog=256
        )
        port = self._server.sockets[0].getsockname()[1]
        self.origin = f"{'https' if self._ssl else 'http'}://127.0.0.1:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def until_closed(self) -> None:
        """Wait until no connection is open."""
        while self._connections:
            await asyncio.wait(self._connections)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.connections += 1
        self._connections.add(task)
        try:
            await self._talk(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the other side left, or the test is over
        finally:
            self._connections.discard(task)
            writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = 0
        while not writer.is_closing():
            head = await reader.readuntil(b"\r\n\r\n")
            number += 1
            exchange = Exchange(head, number, reader, writer)
            self.exchanges.append(exchange)
            await self._script(exchange)
