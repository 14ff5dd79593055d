"""FaultProxy: a network that breaks between a client and a server, in the way a test asks for."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit

from cache_backends.loops import LoopThread
from tests.fakes.servers import HOST, free_port

# Nothing that any protocol says: no first byte of Redis, no message of Postgres.
JUNK = b"\x00\xfe garbage \r\n"
CHUNK_BYTES = 2**16
# A socket that is closed with this says goodbye with a reset.
NO_LINGER = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True)
class Fault:
    """What becomes of the bytes."""

    hangs: bool = False
    resets_after: int | None = None
    junk: bytes = b""
    delay_s: float = 0.0
    piece: int = CHUNK_BYTES


class FaultProxy:
    """`with FaultProxy(server.url) as faults`: the same server, at `faults.url`.

    It passes everything on until told otherwise, at any time and from any thread; it runs in one of
    its own. Each fault takes the place of the one before and is in force when the call returns, for
    open connections too. `accepted` counts connections, `open` those that are not closed yet.
    """

    def __init__(self, url: str) -> None:
        self._target = urlsplit(url)
        self.port = free_port()
        self.accepted = 0
        self.fault = Fault()
        self._thread = LoopThread("fault-proxy")
        self._listener: asyncio.Server | None = None
        self._links: dict[_Link, asyncio.Task[None]] = {}

    def __enter__(self) -> Self:
        self.pass_on()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.call(self._refuse())
        self._thread.close()

    @property
    def url(self) -> str:
        """The server's URL, login, path and query included, by way of here."""
        login, at, _ = self._target.netloc.rpartition("@")
        return self._target._replace(netloc=f"{login}{at}{HOST}:{self.port}").geturl()

    @property
    def open(self) -> int:
        return len(self._links)

    def pass_on(self) -> None:
        """Be no hindrance any more. What hung comes late, and then all at once."""
        self._switch(Fault())

    def refuse(self) -> None:
        """Be down: reset what is open, and refuse the rest."""
        self._thread.call(self._refuse())

    def hang(self) -> None:
        """Accept connections, and say nothing more on any of them."""
        self._switch(Fault(hangs=True))

    def reset(self, after: int = 1) -> None:
        """Reset a connection when so many bytes of a reply went through; 0: before the first."""
        self._switch(Fault(resets_after=after))

    def garbage(self, junk: bytes = JUNK) -> None:
        """Say something else in place of replies, of the same length."""
        self._switch(Fault(junk=junk))

    def slow(self, delay_s: float, piece: int = CHUNK_BYTES) -> None:
        """Let replies through in pieces of so many bytes, each of them late."""
        self._switch(Fault(delay_s=delay_s, piece=piece))

    def lose(self) -> None:
        """Lose what is said on the connections that are open, for ever; new ones pass."""
        self._thread.call(self._lose())

    def _switch(self, fault: Fault) -> None:
        self._thread.call(self._apply(fault))

    async def _apply(self, fault: Fault) -> None:
        self.fault = fault
        for link in self._links:
            link.notice(fault)
        if self._listener is None:
            self._listener = await asyncio.start_server(self._serve, HOST, self.port)

    async def _lose(self) -> None:
        for link in self._links:
            link.lost = True
        await self._apply(Fault())

    async def _refuse(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        tasks = list(self._links.values())
        for link, task in self._links.items():
            link.reset()
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.accepted += 1
        link = _Link(reader, writer, self.fault)
        self._links[link] = task
        try:
            if self._listener is not None:
                await link.run(str(self._target.hostname), self._target.port)
        finally:
            del self._links[link]
            link.close()


class _Link:
    """A client's connection, and the one to the server that stands behind it."""

    def __init__(
        self, asks: asyncio.StreamReader, client: asyncio.StreamWriter, fault: Fault
    ) -> None:
        self.lost = False
        self._asks = asks
        self._client = client
        self._server: asyncio.StreamWriter | None = None
        self._heard: asyncio.Queue[bytes] = asyncio.Queue()
        self._flows = asyncio.Event()
        self._replied = 0  # bytes, since the client last said something
        self.notice(fault)

    def notice(self, fault: Fault) -> None:
        self._fault = fault
        if fault.hangs:
            self._flows.clear()
        else:
            self._flows.set()

    async def run(self, host: str, port: int | None) -> None:
        await _first_of(self._hear(), self._talk(host, port))

    def close(self) -> None:
        for writer in filter(None, (self._client, self._server)):
            writer.close()

    def reset(self) -> None:
        for writer in filter(None, (self._client, self._server)):
            if writer.is_closing():
                continue
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
            writer.transport.abort()

    async def _hear(self) -> None:
        """Listen also while nothing passes: it may be heard that the client leaves."""
        while chunk := await self._asks.read(CHUNK_BYTES):
            self._heard.put_nowait(chunk)
        if self._flows.is_set():
            await self._heard.join()

    async def _talk(self, host: str, port: int | None) -> None:
        await self._flows.wait()
        replies, self._server = await asyncio.open_connection(host, port)
        await _first_of(self._pass_asks(self._server), self._pass_replies(replies))

    async def _pass_asks(self, server: asyncio.StreamWriter) -> None:
        while True:
            chunk = await self._heard.get()
            await self._flows.wait()
            self._replied = 0
            if not self.lost:
                server.write(chunk)
                await server.drain()
            self._heard.task_done()

    async def _pass_replies(self, replies: asyncio.StreamReader) -> None:
        while chunk := await replies.read(CHUNK_BYTES):
            while chunk:
                size = self._fault.piece
                piece, chunk = chunk[:size], chunk[size:]
                await self._say(piece)

    async def _say(self, piece: bytes) -> None:
        await self._flows.wait()
        fault = self._fault
        if fault.delay_s:
            await asyncio.sleep(fault.delay_s)
        if self.lost:
            return
        if fault.junk:
            piece = (fault.junk * len(piece))[: len(piece)]
        if fault.resets_after is not None:
            piece = piece[: max(0, fault.resets_after - self._replied)]
        self._replied += len(piece)
        self._client.write(piece)
        await self._client.drain()
        if fault.resets_after is not None and self._replied >= fault.resets_after:
            self.reset()


async def _first_of(*coroutines: Coroutine[Any, Any, None]) -> None:
    """Run them until the first has ended; a broken connection is an end like others."""
    tasks = [asyncio.create_task(each) for each in coroutines]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
    for end in ends:
        if isinstance(end, Exception) and not isinstance(end, OSError):
            raise end
