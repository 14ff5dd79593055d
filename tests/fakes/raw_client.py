"""RawClient: an HTTP client that sees every byte, reads at its own pace and leaves at will."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import orjson

# How long a test waits for an answer, or its next chunk, before it fails.
PATIENCE_S = 10.0

# `await connect(base_url)`, as the fixture does it.
Connect = Callable[..., Awaitable["RawClient"]]


@dataclass(frozen=True, slots=True)
class Ending:
    """The rest of an answer, and how it ended."""

    body: bytes
    complete: bool  # by its length, or by the last chunk; False: the connection broke off


class RawClient:
    """One connection. `head` must be read before `chunk` and `rest`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self._reader = reader
        self._writer = writer
        self._left = 0  # bytes of a body with a length

    @classmethod
    async def connect(cls, base_url: str, *, receive_buffer: int | None = None) -> RawClient:
        """Connect to the host of a URL. A small receive buffer makes a slow reader felt early."""
        url = urlsplit(base_url)
        sock = socket.socket(proto=socket.IPPROTO_TCP)
        sock.setblocking(False)
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        await asyncio.get_running_loop().sock_connect(sock, (url.hostname, url.port))
        limit = receive_buffer or 2**16
        return cls(*await asyncio.open_connection(sock=sock, limit=limit))

    async def post(
        self,
        path: str,
        body: bytes | dict[str, Any],
        headers: dict[str, str] | None = None,
    ) -> None:
        """Send a request and wait for nothing."""
        raw = body if isinstance(body, bytes) else orjson.dumps(body)
        fields = {"host": "127.0.0.1", "content-type": "application/json", **(headers or {})}
        fields["content-length"] = str(len(raw))
        await self.send(f"POST {path} HTTP/1.1\r\n", fields, raw)

    async def send(self, line: str, headers: dict[str, str], body: bytes = b"") -> None:
        head = line + "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        await self.send_bytes(head.encode("latin-1") + b"\r\n" + body)

    async def send_bytes(self, raw: bytes) -> None:
        self._writer.write(raw)
        await self._writer.drain()

    async def head(self) -> int:
        """Read the head; return the status."""
        async with asyncio.timeout(PATIENCE_S):
            raw = await self._reader.readuntil(b"\r\n\r\n")
        lines = raw.decode("latin-1").split("\r\n")
        self.status = int(lines[0].split(" ")[1])
        pairs = (line.partition(":") for line in lines[1:] if line)
        self.headers = {name.lower(): value.strip() for name, _, value in pairs}
        self._left = int(self.headers.get("content-length", 0))
        return self.status

    async def chunk(self) -> bytes:
        """Read one chunk of a chunked body; empty at its end. `IncompleteReadError` if cut."""
        async with asyncio.timeout(PATIENCE_S):
            size = int(await self._reader.readuntil(b"\r\n"), 16)
            return (await self._reader.readexactly(size + 2))[:-2]

    async def rest(self) -> Ending:
        """Read until the body or the connection ends."""
        if self.headers.get("transfer-encoding") != "chunked":
            return await self._counted_rest()
        parts = []
        try:
            while part := await self.chunk():
                parts.append(part)
        except (asyncio.IncompleteReadError, ConnectionError):
            return Ending(b"".join(parts), complete=False)
        return Ending(b"".join(parts), complete=True)

    async def read(self, size: int) -> bytes:
        """Read raw bytes, at most `size`: the way of a slow reader."""
        return await self._reader.read(size)

    def leave(self) -> None:
        """Close the connection in mid-flight, as a client does that has had enough."""
        self._writer.close()

    def reset(self) -> None:
        """Break the connection with RST, as a client does whose process died."""
        sock = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    async def aclose(self) -> None:
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()

    async def _counted_rest(self) -> Ending:
        try:
            return Ending(await self._reader.readexactly(self._left), complete=True)
        except asyncio.IncompleteReadError as exc:
            return Ending(exc.partial, complete=False)
        except ConnectionError:
            return Ending(b"", complete=False)
