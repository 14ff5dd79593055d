"""What is said to providers: a request out, an open response back, within limits of time."""

from __future__ import annotations

import asyncio
import os
import re
import zlib
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Protocol

import httpx

from proxy.aiohttp_transport import AiohttpTransport, Origin
from proxy.end_to_end import announced_length, joined, request_headers, response_headers, without
from proxy.errors import BadRequest, ProxyError, UpstreamFailure, UpstreamTimeout
from proxy.inflate import Decoder, Inflate, Plain, decoder_for
from proxy.models import Head, Headers

# Everything that httpx's transport interface can raise.
_FOREIGN = (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, httpx.CookieConflict)


_ACCEPT_ENCODING = frozenset({b"accept-encoding"})
_NOTHING: frozenset[bytes] = frozenset()


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a provider may take, in seconds. A whole request has no limit.

    The SDKs wait 600 s for each byte; a proxy that gives up earlier breaks what works without it.
    """

    connect_s: float = 10.0  # until there is a connection: its turn in the pool, DNS, TCP, TLS
    first_byte_s: float = 600.0  # from the end of the request to the head of the response
    idle_s: float = 600.0  # between two pieces of a body, in either direction


_Body = bytes | AsyncIterator[bytes] | None


class Upstream:
    """The one door to all providers."""

    def __init__(self, transport: httpx.AsyncBaseTransport, limits: Limits = Limits()) -> None:
        self._transport = transport
        # Its short way, where it has one; httpx's interface is there for all that cannot go it.
        self._post = transport.post if isinstance(transport, AiohttpTransport) else None
        self._limits = limits
        self._timeout = {
            "connect": limits.connect_s,
            "read": limits.first_byte_s,
            "idle": limits.idle_s,
        }

    async def send(
        self,
        method: str,
        url: str,
        headers: Headers,
        body: bytes | AsyncIterator[bytes] | None,
        *,
        decode: bool,
    ) -> Arrival:
        """Send one request; return when the head of its response is there.

        `headers` are the caller's as they came. With `decode` the body of the response comes plain
        (but see `Arrival.opaque`), else as it is on the wire. Raises UpstreamFailure,
        UpstreamTimeout, BadRequest, and what `body` raises.
        """
        target = _target(url)
        framed = _framed(headers, body, decode=decode)
        reply = await self._reply(method, target, framed, body)
        arrival = Arrival(reply, method, target.host, self._limits, decode=decode)
        if arrival.head.status > 599:
            await arrival.aclose()
            raise UpstreamFailure(
                f"{target.host} answered with status {arrival.head.status}: HTTP's end at 599"
            )
        if arrival.head.status < 200:
            await arrival.aclose()
            raise UpstreamFailure(
                f"{target.host} wants to go on in another protocol ({arrival.head.status}), "
                "which this proxy does not speak; ask it directly"
            )
        return arrival

    async def aclose(self) -> None:
        await self._transport.aclose()

    async def _reply(
        self,
        method: str,
        target: _Target,
        headers: Headers,
        body: bytes | AsyncIterator[bytes] | None,
    ) -> Reply:
        try:
            if self._post is not None and method == "POST" and isinstance(body, bytes):
                reply = await self._post(target.origin, target.raw, headers, body, self._timeout)
                if reply is not None:
                    return reply
            return await self._reply_to(self._request(method, target, headers, body))
        except _FOREIGN as exc:
            raise _failure(exc, target.host, self._limits) from exc

    def _request(
        self,
        method: str,
        target: _Target,
        headers: Headers,
        body: bytes | AsyncIterator[bytes] | None,
    ) -> httpx.Request:
        return httpx.Request(
            method,
            target.url,
            headers=headers,
            stream=_stream(body, self._limits),
            extensions={"target": target.raw, "timeout": self._timeout},
        )

    async def _reply_to(self, request: httpx.Request) -> Reply:
        if isinstance(request.stream, _Upload):
            response = await request.stream.sent_by(self._transport, request)
        else:
            response = await self._transport.handle_async_request(request)
        assert isinstance(response.stream, httpx.AsyncByteStream)
        return _Reply(response.status_code, response.headers.raw, response.stream)


class Reply(Protocol):
    """Head and stream of a response, from whichever way of the transport."""

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> Iterable[tuple[bytes, bytes]]: ...
    @property
    def stream(self) -> httpx.AsyncByteStream: ...


class _Reply(NamedTuple):
    status: int
    headers: Iterable[tuple[bytes, bytes]]
    stream: httpx.AsyncByteStream


class Arrival:
    """An open response. Whoever holds it reads `chunks` to the end, or calls `aclose`.

    `length` is what `chunks` will give in all, if that was announced. `opaque` means that the body
    was to be decoded and cannot be: head and chunks are then as they came.
    """

    def __init__(
        self, reply: Reply, method: str, host: str, limits: Limits, *, decode: bool
    ) -> None:
        self._stream = reply.stream
        self._host = host
        self._limits = limits
        self._closed = False
        headers = response_headers(reply.headers)
        decoder = decoder_for(joined(headers, b"content-encoding")) if decode else Plain()
        self.opaque = decoder is None
        self._decoder = decoder or Plain()
        if isinstance(decoder, Inflate):
            headers = without(headers, b"content-encoding", b"content-length")
        self.head = Head(reply.status, headers)
        has_body = method != "HEAD" and reply.status not in (204, 304)
        self.length = announced_length(headers) if has_body else 0

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        return f"<Arrival {self.head.status} from {self._host}, {state}>"

    def chunks(self) -> AsyncIterator[bytes]:
        """Give the body as it arrives. Ends only if it is whole; raises UpstreamFailure if not."""
        if isinstance(self._decoder, Plain):
            return _AsTheyCome(aiter(self._stream), self)
        return self._decoded(self._decoder)

    async def _decoded(self, decoder: Decoder) -> AsyncIterator[bytes]:
        try:
            async for chunk in _AsTheyCome(aiter(self._stream), self):
                for piece in decoder.feed(chunk):
                    yield piece
            decoder.finish()
        except zlib.error as exc:
            raise _failure(exc, self._host, self._limits) from exc
        finally:
            await self.aclose()

    def failure(self, exc: BaseException) -> ProxyError:
        """What it means that the body broke off so."""
        if isinstance(exc, httpx.ReadTimeout):
            return UpstreamTimeout(
                f"{self._host} fell silent for {self._limits.idle_s:g} s in the middle of its "
                "answer; try again, or raise upstream.idle_timeout_s"
            )
        return _failure(exc, self._host, self._limits)

    async def aclose(self) -> None:
        """Free the connection. May be called at any time and more than once."""
        if not self._closed:
            self._closed = True
            # Does not suspend in the transport used here: no cancellation can come in between.
            await self._stream.aclose()


class _AsTheyCome:
    """The chunks of an arrival. No generator: asyncio keeps a register of those."""

    __slots__ = ("_arrival", "_chunks")

    def __init__(self, chunks: AsyncIterator[bytes], arrival: Arrival) -> None:
        self._chunks = chunks
        self._arrival = arrival

    def __aiter__(self) -> _AsTheyCome:
        return self

    async def __anext__(self) -> bytes:
        try:
            return await anext(self._chunks)
        except _FOREIGN as exc:
            await self._arrival.aclose()
            raise self._arrival.failure(exc) from exc
        except BaseException:  # the end is one too
            await self._arrival.aclose()
            raise


class _Upload(httpx.AsyncByteStream):
    """A request body that streams: the time-out runs only while the provider must take a piece."""

    def __init__(self, chunks: AsyncIterator[bytes], limits: Limits) -> None:
        self._chunks = chunks
        self._limits = limits
        self._error: Exception | None = None
        self._patience: asyncio.Timeout | None = None

    async def sent_by(
        self, transport: httpx.AsyncBaseTransport, request: httpx.Request
    ) -> httpx.Response:
        try:
            async with asyncio.timeout(None) as self._patience:
                return await transport.handle_async_request(request)
        except TimeoutError as exc:
            raise httpx.WriteTimeout("a piece of the body was not taken") from exc
        except _FOREIGN:
            if self._error is not None:
                raise self._error from None
            raise
        finally:
            self._patience = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._chunks:
                self._wait(self._limits.idle_s)
                yield chunk
                self._wait(None)  # the caller may take all the time he wants
        except Exception as exc:
            self._error = exc
            raise

    def _wait(self, seconds: float | None) -> None:
        if self._patience is None or self._patience.expired():
            return
        now = asyncio.get_running_loop().time()
        self._patience.reschedule(None if seconds is None else now + seconds)


def _stream(
    body: bytes | AsyncIterator[bytes] | None, limits: Limits
) -> httpx.ByteStream | _Upload:
    if body is None or isinstance(body, bytes):
        return httpx.ByteStream(body or b"")
    return _Upload(body, limits)


def _framed(
    headers: Headers, body: bytes | AsyncIterator[bytes] | None, *, decode: bool
) -> Headers:
    sent = request_headers(headers, but=_ACCEPT_ENCODING if decode else _NOTHING)
    if decode:
        sent.append((b"accept-encoding", b"identity"))
    length = len(body) if isinstance(body, bytes) else announced_length(headers)
    if body and length is not None:
        sent.append((b"content-length", b"%d" % length))
    return sent


class _Target(NamedTuple):
    url: httpx.URL
    origin: Origin
    raw: bytes  # path and query as they came; httpx.URL levels them
    host: str  # for people


@lru_cache(maxsize=128)  # URLs can be long
def _target(url: str) -> _Target:
    if not (url.isascii() and url.isprintable()) or " " in url:
        raise BadRequest("the path of this request has characters that must be percent-encoded")
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        raise BadRequest("the URL of this request cannot be read; check path and query") from None
    path = re.sub(r"^\w+://[^/?#]*", "", url)
    raw = path if path.startswith("/") else f"/{path}"
    origin = (parsed.scheme, parsed.raw_host, parsed.port)
    return _Target(parsed, origin, raw.encode(), parsed.netloc.decode())


# What each failure means to the caller. A class that is not named counts as its base class.
_MEANINGS: dict[type[BaseException], type[ProxyError]] = {
    httpx.TimeoutException: UpstreamTimeout,
    httpx.LocalProtocolError: BadRequest,
    httpx.InvalidURL: BadRequest,
    Exception: UpstreamFailure,
}
_DAMAGED = "{host} sent a body that is damaged, or not compressed as its head says; try again"
_TEXTS: dict[type[BaseException], str] = {
    httpx.ConnectTimeout: """
        {host} gave no connection within {limits.connect_s:g} s; check that this machine can reach
        it, or raise upstream.connect_timeout_s""",
    httpx.PoolTimeout: """
        no connection to {host} became free; try again, or raise upstream.max_connections""",
    httpx.ReadTimeout: """
        {host} did not answer within {limits.first_byte_s:g} s; try again, or raise
        upstream.first_byte_timeout_s""",
    httpx.WriteTimeout: """
        {host} took nothing of the request for {limits.idle_s:g} s; try again, or raise
        upstream.idle_timeout_s""",
    httpx.TimeoutException: """
        {host} did not answer in time; try again""",
    httpx.ConnectError: """
        {host} cannot be reached{why}; check the base URL of the provider, and this machine's
        network, proxy and certificate settings""",
    httpx.NetworkError: """
        {host} broke off the connection{why}; try again""",
    httpx.ProxyError: """
        the HTTP proxy on the way to {host} could not be used{why}; check HTTP_PROXY, HTTPS_PROXY
        and NO_PROXY""",
    httpx.UnsupportedProtocol: """
        {host} cannot be asked; the base URL of a provider starts with http:// or https://""",
    httpx.LocalProtocolError: """
        this request cannot be sent to {host}; check its method and headers: names are tokens,
        values UTF-8 without control characters""",
    httpx.ProtocolError: """
        {host} broke off the connection{why}, or does not speak HTTP; try again""",
    httpx.DecodingError: _DAMAGED,
    zlib.error: _DAMAGED,
    httpx.InvalidURL: """
        the URL of this request cannot be read; check its path and query""",
    Exception: """
        {host} could not be asked{why}; try again""",
}


def _failure(exc: BaseException, host: str, limits: Limits) -> ProxyError:
    kinds = type(exc).__mro__
    error = next(_MEANINGS[kind] for kind in kinds if kind in _MEANINGS)
    text = " ".join(next(_TEXTS[kind] for kind in kinds if kind in _TEXTS).split())
    return error(text.format(host=host or "the provider", limits=limits, why=_why(exc)))


def _why(exc: BaseException | None) -> str:
    """Return the operating system's own words, in parentheses. They quote neither URL nor header,
    which the messages of libraries may."""
    while exc is not None:
        if isinstance(exc, OSError) and type(exc).__module__ in ("builtins", "socket", "ssl"):
            is_plain = isinstance(exc, ConnectionError) or type(exc) is OSError
            words = os.strerror(exc.errno) if is_plain and exc.errno else exc.strerror
            words = getattr(exc, "verify_message", "") or words
            return f" ({words})" if words else ""
        exc = exc.__cause__
    return ""
