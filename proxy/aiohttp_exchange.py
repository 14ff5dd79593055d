"""One exchange over a connection of aiohttp's pool, without aiohttp's client around it.

The client makes objects for the request and its response, and a task for each body: that is half
of what a miss takes. What has a body of some size in one piece needs none of them.

Relies on aiohttp's `ClientRequest` as what a pool is asked with, on `connect` of its connectors, on
`set_response_params`, `start_timeout` and `read` of its protocol, and on what the comments name.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import chain

import aiohttp
import httpx
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ClientRequest
from aiohttp.connector import Connection
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from proxy.aiohttp_faults import LOST_CONNECTION, during_reply, has_begun

# aiohttp's 8190 is less than some gateways put into one header.
MAX_HEADER_LINE_BYTES = 64 * 2**10
# aiohttp stops reading from the socket at twice this: what a slow client can pin per stream.
READ_BUFFER_BYTES = 64 * 2**10

# A connection that the server closed while it lay in the pool shows that within a round trip. One
# that is lost later was at work: to ask again would cost the caller twice.
STALE_WITHIN_S = 5.0

_PLAIN = bytes(range(0x20, 0x7F)) + b"\t"
_NO_RESPONSE_YET = range(100, 200)
_SWITCHING_PROTOCOLS = 101


class PooledConnection(ResponseHandler):
    """aiohttp's connection, which tells the reader of a body also what aiohttp keeps to itself."""

    used = False  # has it carried an exchange already?
    _silent_until = 0.0

    def set_exception(self, exc: BaseException, *cause: BaseException) -> None:
        super().set_exception(exc, *cause)
        # Without this, a reader waits for ever for what follows a malformed chunk.
        if isinstance(exc, HttpProcessingError):
            self._break_off(aiohttp.ClientPayloadError("malformed framing"))

    def connection_lost(self, exc: BaseException | None) -> None:
        # Without this, a body that ends with its connection seems whole after a reset.
        if isinstance(exc, OSError):
            self._break_off(aiohttp.ClientOSError(*exc.args))
        super().connection_lost(exc)

    def _break_off(self, exc: aiohttp.ClientError) -> None:
        if self._payload is not None and not self._payload.is_eof():
            self._payload.set_exception(exc)

    def resume_reading(self, resume_parser: bool = True) -> None:
        # The reader of a body says so with each chunk, wherever it was not paused.
        if self._reading_paused:
            super().resume_reading(resume_parser)

    def start_timeout(self) -> None:
        self._drop_timeout()  # the limit may be another one now
        self._reschedule_timeout()

    def _reschedule_timeout(self) -> None:
        # aiohttp's own makes a timer for each piece that arrives; this one looks when it is due.
        if not self._read_timeout:
            self._drop_timeout()
            return
        self._silent_until = self._loop.time() + self._read_timeout
        if self._read_timeout_handle is None:
            self._read_timeout_handle = self._loop.call_at(self._silent_until, self._look)

    def _look(self) -> None:
        self._read_timeout_handle = None
        if self._loop.time() < self._silent_until:
            self._read_timeout_handle = self._loop.call_at(self._silent_until, self._look)
        else:
            self._on_read_timeout()


class StaleConnectionError(Exception):
    """The server had closed the connection before it saw the request."""


class Place:
    """An origin, as the pool of one session knows it."""

    def __init__(self, session: aiohttp.ClientSession, origin: URL) -> None:
        assert session.connector is not None
        self._connector = session.connector
        self._origin = origin
        self._asking = ClientRequest("POST", origin, session=session, loop=session._loop)
        self._host = self._asking.headers["Host"].encode()

    def of(self, session: aiohttp.ClientSession) -> Place:
        """The same, for the pool of another session."""
        return Place(session, self._origin)

    async def post(
        self,
        target: bytes,
        headers: Sequence[tuple[bytes, bytes]],
        body: bytes,
        limits: aiohttp.ClientTimeout,
        idle_s: float | None,
    ) -> Reply:
        """Send a request, return when the head of the reply is there. Raises what aiohttp's client
        does. `headers` tell the length of the body; see `can_be_written`.
        """
        lines = [b"%b: %b\r\n" % header for header in headers]
        head = b"POST %b HTTP/1.1\r\nHost: %b\r\n%b\r\n" % (target, self._host, b"".join(lines))
        try:
            connection = await self._connector.connect(self._asking, [], limits)
        except TimeoutError as exc:
            raise aiohttp.ConnectionTimeoutError("no connection in time") from exc
        protocol = connection.protocol
        assert isinstance(protocol, PooledConnection)
        may_be_stale, protocol.used = protocol.used, True
        began = asyncio.get_running_loop().time()
        try:
            return await _exchange(connection, protocol, head + body, limits.sock_read, idle_s)
        except BaseException as exc:
            connection.close()
            if not may_be_stale or not isinstance(exc, LOST_CONNECTION) or has_begun(exc):
                raise
            if asyncio.get_running_loop().time() - began >= STALE_WITHIN_S:
                raise
            raise StaleConnectionError from exc


def can_be_written(headers: Sequence[tuple[bytes, bytes]]) -> bool:
    """Is nothing in them but ASCII, and no end of a line?"""
    return not b"".join(chain.from_iterable(headers)).translate(None, _PLAIN)


async def _exchange(
    connection: Connection,
    protocol: PooledConnection,
    request: bytes,
    read_s: float | None,
    idle_s: float | None,
) -> Reply:
    if protocol.transport is None:
        raise aiohttp.ClientConnectionResetError("closed before it was used")
    protocol.set_response_params(
        read_until_eof=True,
        auto_decompress=False,
        read_timeout=read_s,
        read_bufsize=READ_BUFFER_BYTES,
        max_line_size=MAX_HEADER_LINE_BYTES,
        max_field_size=MAX_HEADER_LINE_BYTES,
    )
    protocol.transport.write(request)
    protocol.start_timeout()
    message, content = await protocol.read()
    while message.code in _NO_RESPONSE_YET and message.code != _SWITCHING_PROTOCOLS:
        message, content = await protocol.read()
    if not content.is_eof() and idle_s is not None:
        protocol.read_timeout = idle_s
        protocol.start_timeout()
    return Reply(message.code, message.raw_headers, content, connection)


class Reply(httpx.AsyncByteStream):
    """Status and headers of a reply, and its body in the pieces in which it arrives."""

    def __init__(
        self,
        status: int,
        headers: Sequence[tuple[bytes, bytes]],
        content: aiohttp.StreamReader,
        connection: Connection,
    ) -> None:
        self.status = status
        self.headers = headers
        self._content = content
        self._connection: Connection | None = connection
        content.on_eof(self._release)

    @property
    def stream(self) -> Reply:
        return self

    def __aiter__(self) -> Reply:
        return self

    # No generator: asyncio keeps a register of those, which takes longer than what is done here.
    async def __anext__(self) -> bytes:
        content = self._content
        if content.at_eof() and content.exception() is None:
            raise StopAsyncIteration
        try:
            chunk = await content.readany()
        except BaseException as exc:
            self._close()
            if isinstance(exc, aiohttp.ClientError | OSError):
                raise during_reply(exc) from exc
            raise
        if not chunk:
            raise StopAsyncIteration
        return chunk

    def _release(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        transport = connection.transport
        # It came before all of the request was taken: the rest would be in the next one's way.
        if transport is None or transport.get_write_buffer_size() > 0:
            connection.close()
        else:
            connection.release()

    async def aclose(self) -> None:
        self._close()

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
            # Whoever still reads would wait for ever.
            self._content.set_exception(aiohttp.ClientConnectionError("closed"))
