"""HTTP on the wire: httpx's transport interface over aiohttp, which adds nothing of its own."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextvars import ContextVar
from functools import lru_cache, partial
from typing import Any

import aiohttp
import httpx
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from proxy.environment import Environment

# aiohttp's 8190 is less than some gateways put into one header.
MAX_HEADER_LINE_BYTES = 64 * 2**10
# aiohttp stops reading from the socket at twice this: what a slow client can pin per stream.
READ_BUFFER_BYTES = 64 * 2**10
# Larger bodies are written in pieces: in one, they block the loop while they are copied.
WRITE_PIECE_BYTES = 256 * 2**10
DNS_TTL_S = 30
# A connection that the server closed while it lay in the pool shows that within a round trip. One
# that is lost later was at work: to ask again would cost the caller twice.
STALE_WITHIN_S = 5.0
# NAT gateways forget connections that are silent for minutes, as those of reasoning models are.
TCP_KEEPALIVE_S = 60

_ADDED_BY_AIOHTTP = frozenset({"user-agent", "accept", "accept-encoding", "content-type"})
_LOST_CONNECTION = (
    aiohttp.ServerDisconnectedError,
    aiohttp.ClientOSError,
    aiohttp.ClientConnectionResetError,
)


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
            except _LOST_CONNECTION as exc:
                if isinstance(body, httpx.AsyncByteStream) or not trip.met_stale_connection(exc):
                    raise
                response = await self._send(self._unpooled(), request, body)
        except (aiohttp.ClientError, OSError, ValueError) as exc:
            raise _before_reply(exc) from _without_url(exc)
        return httpx.Response(
            response.status,
            headers=response.raw_headers,
            stream=_Reply(response),
        )

    async def aclose(self) -> None:
        self._closed = True
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
        if self.connected or _has_begun(exc):
            return False
        return asyncio.get_running_loop().time() - self.started < STALE_WITHIN_S


# aiohttp tells of reused connections only through its tracing, which costs a sixth of the
# throughput; but whoever needs a connection comes by `_socket`, in the context of the request.
_trip: ContextVar[_Trip] = ContextVar("_trip")


class _Connection(ResponseHandler):
    """aiohttp's connection, which tells the reader of a body also what aiohttp keeps to itself."""

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


def _connection(loop: asyncio.AbstractEventLoop) -> ResponseHandler:
    return _Connection(loop)


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
            raise _during_reply(exc) from exc
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
    _trip.get().connected = True
    family, kind, protocol, _, _ = address
    sock = socket.socket(family, kind, protocol)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option in ("TCP_KEEPIDLE", "TCP_KEEPINTVL"):  # not on every system
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), TCP_KEEPALIVE_S)
    return sock


def _has_begun(exc: BaseException) -> bool:
    """Tell whether a part of the reply's head had come: aiohttp then gives it as the message."""
    return isinstance(exc, aiohttp.ServerDisconnectedError) and not isinstance(exc.message, str)


def _before_reply(exc: Exception) -> httpx.HTTPError:
    match exc:
        case aiohttp.ClientProxyConnectionError() | aiohttp.ClientHttpProxyError():
            return httpx.ProxyError("the proxy could not be used")
        case aiohttp.ConnectionTimeoutError():
            return httpx.ConnectTimeout("no connection in time")
        case TimeoutError():
            return httpx.ReadTimeout("no reply in time")
        case aiohttp.ClientConnectorError() | aiohttp.ServerFingerprintMismatch():
            return httpx.ConnectError("no connection")
        case aiohttp.InvalidURL() | aiohttp.NonHttpUrlClientError():
            return httpx.UnsupportedProtocol("not an http:// or https:// URL")
        case aiohttp.ClientResponseError():
            return httpx.RemoteProtocolError("not an HTTP reply")
        case aiohttp.ServerDisconnectedError():
            return httpx.RemoteProtocolError("closed the connection before a reply")
        case aiohttp.ClientOSError():
            return httpx.ReadError("the connection broke before a reply")
        case aiohttp.ClientError() | OSError():
            return httpx.WriteError("the request could not be sent")
        case _:  # ValueError: a method, header or length that HTTP does not allow
            return httpx.LocalProtocolError("not a valid HTTP request")


def _during_reply(exc: Exception) -> httpx.HTTPError:
    match exc:
        case aiohttp.ClientPayloadError():
            return httpx.RemoteProtocolError("broke off in mid-reply")
        case TimeoutError():
            return httpx.ReadTimeout("fell silent in mid-reply")
        case _:
            return httpx.ReadError("the connection broke in mid-reply")


def _without_url(exc: Exception) -> Exception | None:
    """Return the cause to show in tracebacks: none if it quotes URL or reply, which are secret."""
    return None if isinstance(exc, (aiohttp.ClientResponseError, ValueError)) else exc
