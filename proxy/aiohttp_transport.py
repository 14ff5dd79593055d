"""HTTP on the wire: httpx's transport interface over aiohttp, which adds nothing of its own."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextvars import ContextVar
from functools import lru_cache, partial
from typing import Any

import aiohttp
import httpx
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from proxy.aiohttp_exchange import (
    MAX_HEADER_LINE_BYTES,
    READ_BUFFER_BYTES,
    STALE_WITHIN_S,
    Place,
    PooledConnection,
    Reply,
    StaleConnectionError,
    can_be_written,
)
from proxy.aiohttp_faults import (
    LOST_CONNECTION,
    before_reply,
    during_reply,
    has_begun,
    without_url,
)
from proxy.environment import Environment

# Larger bodies are written in pieces: in one, they block the loop while they are copied.
WRITE_PIECE_BYTES = 256 * 2**10
DNS_TTL_S = 30
MAX_PLACES = 128
# NAT gateways forget connections that are silent for minutes, as those of reasoning models are.
TCP_KEEPALIVE_S = 60

Origin = tuple[str, bytes, int | None]  # scheme, host, port
RawHeaders = Sequence[tuple[bytes, bytes]]
Waits = Mapping[str, float]

_ADDED_BY_AIOHTTP = frozenset({"user-agent", "accept", "accept-encoding", "content-type"})


class AiohttpTransport(httpx.AsyncBaseTransport):
    """One pool of HTTP/1.1 connections.

    Path and query go out as the request's `target` extension has them, else as its URL. Of the
    `timeout` extension, `connect` and `read` are used; `idle` beside them takes the place of `read`
    after the reply's head. No redirects, no cookies, no decoding.
    """

    def __init__(
        self,
        *,
        max_connections: int | None = None,
        keepalive_s: float = 45,
        environment: Environment | None = None,
    ) -> None:
        self._environment = Environment.read() if environment is None else environment
        self._max_connections = max_connections
        self._keepalive_s = keepalive_s
        self._ssl = self._environment.ssl_context()
        self._route = lru_cache(maxsize=128)(self._find_route)
        self._places: dict[Origin, Place] = {}
        # Opened by the first request, because aiohttp binds a session to the running loop.
        self._pool: aiohttp.ClientSession | None = None
        self._single: aiohttp.ClientSession | None = None
        self._closed = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        body = _body(request.stream)
        trip = _Trip()
        _trip.set(trip)
        try:
            try:
                response = await self._send(self._pooled(), request, body)
            except LOST_CONNECTION as exc:
                if isinstance(body, httpx.AsyncByteStream) or not trip.met_stale_connection(exc):
                    raise
                response = await self._send(self._unpooled(), request, body)
        except (aiohttp.ClientError, OSError, ValueError) as exc:
            raise before_reply(exc) from without_url(exc)
        return httpx.Response(
            response.status,
            headers=response.raw_headers,
            stream=_Reply(response),
        )

    async def post(
        self, origin: Origin, target: bytes, headers: RawHeaders, body: bytes, waits: Waits
    ) -> Reply | None:
        """Send what has a body of moderate size: in a third of the time that httpx's interface
        takes. `None`: this cannot be sent so. Raises as that does; `waits` is its `timeout`.
        """
        if not 0 < len(body) <= WRITE_PIECE_BYTES or not can_be_written(headers):
            return None
        timeout = _timeout(waits.get("connect"), waits.get("read"))
        idle_s = waits.get("idle")
        try:
            place = self._places.get(origin) or self._find_place(origin)
            if place is None:
                return None
            try:
                return await place.post(target, headers, body, timeout, idle_s)
            except StaleConnectionError:
                alone = place.of(self._unpooled())
                return await alone.post(target, headers, body, timeout, idle_s)
        except (aiohttp.ClientError, HttpProcessingError, OSError, ValueError) as exc:
            raise before_reply(exc) from without_url(exc)

    def _find_place(self, origin: Origin) -> Place | None:
        url, proxy = self._route(*origin, b"/")
        if proxy is not None or url.scheme not in ("http", "https") or not url.host:
            return None
        while len(self._places) >= MAX_PLACES:
            del self._places[next(iter(self._places))]
        self._places[origin] = place = Place(self._pooled(), url)
        return place

    async def aclose(self) -> None:
        self._closed = True
        self._places.clear()
        sessions, self._pool, self._single = (self._pool, self._single), None, None
        for session in sessions:
            if session is not None:
                await session.close()

    async def _send(
        self,
        session: aiohttp.ClientSession,
        request: httpx.Request,
        body: bytes | httpx.AsyncByteStream | None,
    ) -> aiohttp.ClientResponse:
        at, waits = request.url, request.extensions.get("timeout", {})
        target = request.extensions.get("target", at.raw_path)
        url, proxy = self._route(at.scheme, at.raw_host, at.port, target)
        # aiohttp writes headers as UTF-8 and drops what it cannot encode, so nothing else gets in.
        headers = [(name.decode(), value.decode()) for name, value in request.headers.raw]
        given = {name.lower() for name, _ in headers}
        response = await session.request(
            request.method,
            url,
            headers=headers,
            skip_auto_headers=_ADDED_BY_AIOHTTP - given or None,
            data=_pieces(body),
            allow_redirects=False,
            proxy=proxy,
            timeout=_timeout(waits.get("connect"), waits.get("read")),
        )
        _limit_silence(response, waits.get("idle"))
        return response

    def _find_route(
        self, scheme: str, host: bytes, port: int | None, target: bytes
    ) -> tuple[URL, str | None]:
        name = host.decode()
        authority = f"[{name}]" if ":" in name else name
        origin = f"{scheme}://{authority}" if port is None else f"{scheme}://{authority}:{port}"
        # `encoded` keeps yarl from quoting again: `%3A` stays, and so does `//`.
        url = URL(origin + target.decode(), encoded=True)
        return url, self._environment.proxy_for(scheme, name)

    def _pooled(self) -> aiohttp.ClientSession:
        if self._pool is None:
            self._pool = self._open(keepalive_timeout=self._keepalive_s)
        return self._pool

    def _unpooled(self) -> aiohttp.ClientSession:
        if self._single is None:
            self._single = self._open(force_close=True)
        return self._single

    def _open(self, **reuse: Any) -> aiohttp.ClientSession:
        if self._closed:
            raise aiohttp.ClientConnectionError("the transport is closed")
        connector = aiohttp.TCPConnector(
            limit=self._max_connections or 0,
            ssl=self._ssl,
            ttl_dns_cache=DNS_TTL_S,
            socket_factory=_socket,
            **reuse,
        )
        connector._factory = partial(_connection, asyncio.get_running_loop())
        session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            max_line_size=MAX_HEADER_LINE_BYTES,
            max_field_size=MAX_HEADER_LINE_BYTES,
            read_bufsize=READ_BUFFER_BYTES,
        )
        # aiohttp sends idempotent requests again whatever broke; here one rule holds for all.
        session._retry_connection = False
        return session


class _Trip:
    """What is known of one request: when it set out, and whether a connection was made for it."""

    __slots__ = ("connected", "started")

    def __init__(self) -> None:
        self.started = asyncio.get_running_loop().time()
        self.connected = False

    def met_stale_connection(self, exc: aiohttp.ClientError) -> bool:
        """Tell whether the server had closed the connection before it saw the request."""
        if self.connected or has_begun(exc):
            return False
        return asyncio.get_running_loop().time() - self.started < STALE_WITHIN_S


# aiohttp tells of reused connections only through its tracing, which costs a sixth of the
# throughput; but whoever needs a connection comes by `_socket`, in the context of the request.
_trip: ContextVar[_Trip | None] = ContextVar("_trip", default=None)


def _connection(loop: asyncio.AbstractEventLoop) -> ResponseHandler:
    return PooledConnection(loop)


class _Reply(httpx.AsyncByteStream):
    """The body of a response, in the pieces in which it arrives."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        content = self._response.content
        try:
            while chunk := await content.readany():
                yield chunk
        except (aiohttp.ClientError, OSError) as exc:
            raise during_reply(exc) from exc
        finally:
            self._response.close()

    async def aclose(self) -> None:
        # A connection whose reply was read to its end is back in the pool already.
        self._response.close()


def _body(stream: Any) -> bytes | httpx.AsyncByteStream | None:
    if isinstance(stream, httpx.ByteStream):
        return b"".join(stream) or None
    assert isinstance(stream, httpx.AsyncByteStream)
    return stream


def _pieces(body: bytes | httpx.AsyncByteStream | None) -> Any:
    if not isinstance(body, bytes) or len(body) <= WRITE_PIECE_BYTES:
        return body
    return _sliced(memoryview(body))


async def _sliced(body: memoryview) -> AsyncIterator[memoryview]:
    for start in range(0, len(body), WRITE_PIECE_BYTES):
        yield body[start : start + WRITE_PIECE_BYTES]


@lru_cache(maxsize=16)
def _timeout(connect: float | None, read: float | None) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=None, connect=connect, sock_read=read)


def _limit_silence(response: aiohttp.ClientResponse, seconds: float | None) -> None:
    connection = response.connection  # None: the whole reply is here
    if seconds is not None and connection is not None and connection.protocol is not None:
        connection.protocol.read_timeout = seconds
        connection.protocol.start_timeout()


def _socket(address: Any) -> socket.socket:
    if (trip := _trip.get()) is not None:
        trip.connected = True
    family, kind, protocol, _, _ = address
    sock = socket.socket(family, kind, protocol)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option in ("TCP_KEEPIDLE", "TCP_KEEPINTVL"):  # not on every system
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), TCP_KEEPALIVE_S)
    return sock
