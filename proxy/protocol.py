"""What uvicorn's HTTP protocol lacks: limits on what is received, errors that can be read, cuts."""

from __future__ import annotations

import asyncio
import socket
import struct
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle as Cycle

from proxy.dialects.base import openai_error
from proxy.errors import BadRequest, HeadTooLarge, ProxyError
from proxy.models import Headers
from proxy.routes.caller import (
    ABORT_EXTENSION,
    LEAVING_EXTENSION,
    SEND_TIMEOUT,
    WHOLE_EXTENSION,
)

_NOT_HTTP = "This cannot be read as an HTTP/1.1 request; the connection is closed."
_HEAD_TOO_LARGE = "The head of this request is above {}; the connection is closed."
# RFC 9112, 3.2: two proxies that read another of several might not see the same request.
_NO_ONE_HOST = "A request names one Host, once; the connection is closed."
# For how long more of a request that was refused is read, and thrown away: closing at once would
# reset the connection, and the refusal be lost on its way. RFC 9112, 9.6.
_LINGER_S = 1.0
# Whoever sends to one who takes nothing waits for so long, unless the app says otherwise.
_SEND_TIMEOUT_S = 30.0
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: on, no time

# What this and the hit lane take from uvicorn although it promises it to nobody. A test looks for
# all of it in the version that is installed.
OF_PROTOCOL = (
    *("connection_made", "connection_lost", "data_received", "pause_writing", "resume_writing"),
    *("on_message_begin", "on_headers_complete", "on_message_complete", "on_response_complete"),
    *("shutdown", "timeout_keep_alive_handler", "_unset_keepalive_if_required"),
    *("access_log", "app_state", "config", "limit_concurrency", "loop", "parser"),
    *("cycle", "flow", "headers", "pipeline", "scope", "server_state"),
    *("timeout_keep_alive", "timeout_keep_alive_task", "transport", "url"),
)
OF_CYCLE = (
    *("default_headers", "disconnected", "expected_content_length", "flow", "keep_alive"),
    *("chunked_encoding", "message_event", "on_response", "response_complete", "response_started"),
    *("scope", "send", "transport", "waiting_for_100_continue"),
)
OF_FLOW = ("read_paused", "resume_reading", "write_paused")
OF_CONFIG = ("date_header", "encoded_headers")
OF_STATE = ("total_requests",)


class Protocol(HttpToolsProtocol):
    """uvicorn's protocol, hardened; one object for each connection."""

    # Request heads above this are no API client's; uvicorn's httptools would read on for ever.
    max_head_bytes: ClassVar[int] = 64 * 2**10
    max_headers: ClassVar[int] = 256
    # From the first byte of a head to its last: who takes longer only holds a place.
    head_deadline_s: ClassVar[float] = 10.0

    _head_bytes = 0  # at most so many belong to the head that is being read
    _in_head = True
    _begun = False  # of a message that has begun, the end is not there yet
    _refused = False
    _fault: ProxyError | None = None
    _deadline: asyncio.TimerHandle | None = None
    _watching: asyncio.TimerHandle | None = None  # whether any of what is sent is taken

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # narrower than asyncio's, as in uvicorn
        super().connection_made(transport)
        self._leaving: set[Callable[[], None]] = set()
        self._extensions: dict[str, dict[object, object]] = {
            ABORT_EXTENSION: {"abort": self._cut},
            LEAVING_EXTENSION: {"add": self._leaving.add, "discard": self._leaving.discard},
        }
        # asyncio leaves Nagle's algorithm on where a socket does not say that it is TCP: each
        # answer then waits 40 ms for the client's delayed ACK.
        carrying = transport.get_extra_info("socket")
        if carrying.family != socket.AF_UNIX:  # another worker's
            carrying.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._set_deadline(self.head_deadline_s)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._unset_keepalive_if_required()
        if self._in_head:
            self._head_bytes += len(data)
        self._parse(data)
        if self._refused:
            return
        if self._begun:
            self._expect_more()
        elif self._deadline is None and not self._busy and self.timeout_keep_alive_task is None:
            # Only line ends, which may stand before a request: the connection is as idle as it was.
            self._set_keep_alive(self.timeout_keep_alive)

    def _set_keep_alive(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(
            seconds, self.timeout_keep_alive_handler
        )

    def _parse(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self._refuse(self._fault or BadRequest(_NOT_HTTP))
        except httptools.HttpParserUpgrade as offer:
            self._decline(data[offer.args[0] :])

    def _decline(self, rest: bytes) -> None:
        """Take up no offer to go on in another protocol (RFC 9110, 7.8), and read on.

        Java's own client offers HTTP/2 with each request. llhttp takes what follows such a head for
        the other protocol, so another parser is told of a head that frames the body alike.
        """
        framing = self._framing()
        self.parser = httptools.HttpRequestParser(_KnownHead(self) if framing else self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        self._parse(b"POST / HTTP/1.1\r\n" + framing + b"\r\n" + rest if framing else rest)

    def _framing(self) -> bytes:
        names = (b"content-length", b"transfer-encoding")
        return b"".join(b"%b: %b\r\n" % pair for pair in self.headers if pair[0] in names)

    def _expect_more(self) -> None:
        if not self._in_head:
            self._set_deadline(self.timeout_keep_alive)
        elif self._head_bytes > self.max_head_bytes:
            self._refuse(self._too_large())
        elif self._deadline is None:
            self._set_deadline(self.head_deadline_s)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = self._begun = True
        self.scope["extensions"] = {**self.scope.get("extensions", {}), **self._extensions}

    def on_headers_complete(self) -> None:
        if self._head_bytes > self.max_head_bytes and self._head_size() > self.max_head_bytes:
            self._fault = self._too_large()
        elif len(self.headers) > self.max_headers:
            self._fault = HeadTooLarge(_HEAD_TOO_LARGE.format(f"{self.max_headers} headers"))
        elif not self._has_one_host():
            self._fault = BadRequest(_NO_ONE_HOST)
        if self._fault is not None:
            raise self._fault  # which stops the parser
        self._in_head = False
        self._head_bytes = 0
        self._stop_deadline()
        super().on_headers_complete()
        transport = _JoiningTransport(self.transport, self.loop)
        self.cycle.transport = transport
        send_whole = partial(_send_whole, weakref.ref(self.cycle), transport)
        self.scope["extensions"][WHOLE_EXTENSION] = {"send": send_whole}
        if self.scope["http_version"] < "1.1":
            self.cycle.__class__ = _UnframedCycle

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade() and self._framing():
            return  # the body is yet to come
        super().on_message_complete()
        self._in_head, self._begun = True, False
        self._stop_deadline()
        if not self.pipeline:
            # A large body paused it, and nobody asks for more: his leaving would not be seen.
            self.flow.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_deadline()
        self._stop_watching()
        super().connection_lost(exc)
        for give_up in tuple(self._leaving):
            give_up()

    @property
    def _busy(self) -> bool:
        """Is a request being answered?"""
        return self.cycle is not None and not self.cycle.response_complete

    def _head_size(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _has_one_host(self) -> bool:
        hosts = [name for name, _ in self.headers].count(b"host")
        return hosts == 1 or (hosts == 0 and self.parser.get_http_version() < "1.1")

    def _too_large(self) -> ProxyError:
        return HeadTooLarge(_HEAD_TOO_LARGE.format(f"{self.max_head_bytes // 2**10} KiB"))

    def _refuse(self, error: ProxyError) -> None:
        """Answer what cannot be read, and take no more on this connection."""
        self._refused = True
        self._stop_deadline()
        if self._busy:
            # With others in the pipeline, the cycle is the last of them: another is answered.
            if self.pipeline or self.cycle.response_started:
                self._cut()
                return
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        body = openai_error(error)
        head = b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body)
        head += b"x-should-retry: false\r\nconnection: close\r\n\r\n"
        self.transport.write(STATUS_LINE[error.status] + head + body)
        self.transport.write_eof()
        self._deadline = self.loop.call_later(_LINGER_S, self.transport.abort)

    def _cut(self) -> None:
        """End the connection so that what was sent cannot be taken for the whole."""
        if self.scope["http_version"] < "1.1":
            # Here the end of the connection is the end of the body: only a reset is none.
            linger = (socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            self.transport.get_extra_info("socket").setsockopt(*linger)
        self.transport.abort()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_watching()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():  # once all is taken
            self._watch()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._watch()

    def _watch(self) -> None:
        """See to it that something of what waits to be sent is taken, else cut the connection.

        It would be held for ever. Who sends it and waits has a shorter patience, and says so.
        """
        self._stop_watching()
        seconds = 2 * self.app_state.get(SEND_TIMEOUT, _SEND_TIMEOUT_S)
        waiting = self.transport.get_write_buffer_size()
        if waiting:
            self._watching = self.loop.call_later(seconds, self._look, waiting)

    def _look(self, waiting: int) -> None:
        if self.transport.get_write_buffer_size() >= waiting:
            self.transport.abort()
        else:
            self._watch()

    def _stop_watching(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None

    def _set_deadline(self, seconds: float) -> None:
        self._stop_deadline()
        self._deadline = self.loop.call_later(seconds, self._is_late)

    def _stop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _is_late(self) -> None:
        self._deadline = None
        # Who sends a request ahead is not late while his last one is answered, nor is one from
        # whom nothing is taken.
        if (self._in_head and self._busy) or self.flow.read_paused:
            self._expect_more()
        else:
            self.transport.close()


def _send_whole(
    reference: weakref.ref[Cycle],
    transport: _JoiningTransport,
    status: int,
    headers: Headers,
    body: bytes,
) -> bool:
    """Send an answer in one go, if nothing stands in the way: a sixth less work than as messages.

    `headers` have a content-length, and nothing of the connection's. The reference is weak because
    it lies in the scope, which the cycle holds: else both would wait for the garbage collector.
    """
    cycle = reference()
    if cycle is None or cycle.disconnected or cycle.response_started or cycle.flow.write_paused:
        return False
    if cycle.scope["method"] == "HEAD" or cycle.scope["http_version"] != "1.1":
        return False
    headers = [*cycle.default_headers, *headers]
    if not cycle.keep_alive:
        headers.append((b"connection", b"close"))
    head = b"".join([b"%b: %b\r\n" % header for header in headers])
    if head.count(b"\n") != len(headers) or head.count(b"\r") != len(headers):
        return False  # a value with a line end in it: uvicorn refuses it
    cycle.response_started = cycle.response_complete = True
    cycle.waiting_for_100_continue = False
    transport.write_whole(b"%b%b\r\n%b" % (STATUS_LINE[status], head, body))
    cycle.message_event.set()
    if not cycle.keep_alive:
        transport.close()
    cycle.on_response()
    return True


class _JoiningTransport(asyncio.Transport):
    """Sends the head of an answer together with a body that is at hand: one system call, not two.

    A head whose body is yet to come goes out before the loop turns to anything else.
    """

    __slots__ = ("_head", "_loop", "_sent", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head: bytes | bytearray | memoryview[Any] = b""
        self._sent = False

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        if self._sent:
            self._transport.write(data)
        elif not self._head:
            self._head = data
            self._loop.call_soon(self._send_head)
        else:
            self._sent = True
            self._transport.write(b"".join((self._head, data)))

    def write_whole(self, answer: bytes) -> None:
        """Write head and body that are one already."""
        self._send_head()  # of what went before: 100 Continue
        self._transport.write(answer)

    def _send_head(self) -> None:
        if self._head and not self._sent:
            self._transport.write(self._head)
        self._sent = True

    def close(self) -> None:
        self._send_head()
        self._transport.close()

    def is_closing(self) -> bool:
        return self._transport.is_closing()


class _KnownHead:
    """Tells a protocol what a parser reads, but for the first head, which it knows already."""

    def __init__(self, protocol: Protocol) -> None:
        self._protocol = protocol
        self._known = True
        self.on_body = protocol.on_body
        self.on_message_complete = protocol.on_message_complete

    def on_message_begin(self) -> None:
        if not self._known:
            self._protocol.on_message_begin()

    def on_url(self, url: bytes) -> None:
        if not self._known:
            self._protocol.on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._known:
            self._protocol.on_header(name, value)

    def on_headers_complete(self) -> None:
        if not self._known:
            self._protocol.on_headers_complete()
        self._known = False


class _UnframedCycle(Cycle):
    """An exchange with a caller who speaks HTTP/1.0 and knows no chunks (RFC 9112, 6.1): a body
    without a length ends with the connection. uvicorn would send chunks."""

    _unframed = False

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            names = {name.lower() for name, _ in message.get("headers", [])}
            self._unframed = b"content-length" not in names
            if self._unframed:
                self.chunked_encoding = False
        elif self._unframed:
            self.expected_content_length = len(message.get("body", b""))
        await super().send(message)
