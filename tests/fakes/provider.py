"""FakeProvider: OpenAI and Anthropic on a real socket, doing what a test tells them to.

Without a script it answers as `oracle` says, on the wire of the path. A script may delay, cut,
reset, drip, lie about lengths and never answer; it is an HTTP server of its own because a proper
one does none of these.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import socket
import struct
import zlib
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import Any

import orjson

from tests.fakes.wires import Wire, wire_of

Headers = list[tuple[bytes, bytes]]

_JSON = b"application/json"
_EVENTS = b"text/event-stream; charset=utf-8"
_CREDENTIALS = (b"authorization", b"api-key", b"x-api-key")
_KEPT_BODY_BYTES = 16 * 2**20  # of larger ones only the size and the digest are known
_READ_BYTES = 2**18
_PATIENCE_S = 5.0  # of tests that wait for what does not come


class Gate:
    """Holds a provider's answers until the test lets them go; starts closed."""

    def __init__(self) -> None:
        self.waiting = 0
        self._passes = 0
        self._open = False
        self._changed = asyncio.Condition()

    async def release(self, passes: int = 1) -> None:
        """Let this many through, of those who wait and those who come."""
        async with self._changed:
            self._passes += passes
            self._changed.notify_all()

    async def open(self) -> None:
        """Let everybody through from now on."""
        async with self._changed:
            self._open = True
            self._changed.notify_all()

    async def reached(self, waiting: int = 1) -> None:
        """Return when at least this many wait."""
        async with asyncio.timeout(_PATIENCE_S), self._changed:
            await self._changed.wait_for(lambda: self.waiting >= waiting)

    async def enter(self) -> None:
        async with self._changed:
            self.waiting += 1
            self._changed.notify_all()
            try:
                await self._changed.wait_for(lambda: self._open or self._passes > 0)
                self._passes -= not self._open
            finally:
                self.waiting -= 1


@dataclass(slots=True)
class Answer:
    """What the provider does with one call. All that is not said is as without a script."""

    status: int = 200
    headers: Headers = field(default_factory=list)  # replace default ones of the same name
    body: bytes | None = None
    chunks: Iterable[bytes] | AsyncIterable[bytes] | None = None  # sent as chunks, one at a time
    error: dict[str, Any] | None = None  # its object; in a stream it replaces the last event

    gate: Gate | None = None  # before the head
    chunk_gate: Gate | None = None  # before each chunk; after the head
    delay_s: float = 0.0  # before the head
    chunk_delay_s: float = 0.0  # between chunks
    hang: bool = False  # never answer

    cut_after: int | None = None  # chunks, then the end of the connection without the body's end
    reset_after: int | None = None  # chunks, then RST; 0: head only
    refuse: bool = False  # RST in place of a head
    content_length: int | None = None  # in place of the true one
    until_close: bool = False  # neither length nor chunks: the end of the connection ends the body
    close: bool = False  # end the connection after the answer
    done: bool = True  # whether a stream has its last event
    gzip: bool = False


@dataclass(slots=True)
class Received:
    """One request as it reached the provider."""

    method: str
    target: str  # raw path and query
    headers: Headers
    at: float  # seconds of the loop's clock
    body: bytes = b""
    size: int = 0
    sha256: str = ""
    aborted: bool = False  # the client left before the end of the answer
    finished: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def credential(self) -> str:
        return next((self.header(name) for name in _CREDENTIALS if self.header(name)), "")

    def header(self, name: bytes) -> str:
        return next((value.decode("latin-1") for key, value in self.headers if key == name), "")

    def json(self) -> Any:
        return orjson.loads(self.body)


class FakeProvider:
    """Listens on a port of its own between `start` and `stop`.

    `calls` has every request, `script` says what becomes of the next ones, `always` of those after.
    """

    def __init__(self) -> None:
        self.calls: list[Received] = []
        self.always = Answer()
        self.busy_connections = 0  # those with a request that is not answered
        self._script: list[Answer] = []
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], _Connection] = {}
        self._arrived = asyncio.Condition()

    def __repr__(self) -> str:
        return f"<FakeProvider {self.origin}: {len(self.calls)} calls>"

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._protocol, "127.0.0.1", 0, backlog=2048)
        self.port: int = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for connection in self._connections.values():
            connection.writer.transport.abort()
        await asyncio.gather(*self._connections)

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def base_url(self) -> str:
        return f"{self.origin}/v1"

    @property
    def open_connections(self) -> int:
        return len(self._connections)

    @property
    def tasks(self) -> frozenset[asyncio.Task[None]]:
        """The tasks that serve the open connections."""
        return frozenset(self._connections)

    def script(self, *answers: Answer) -> None:
        """Answer the next calls with these, in the order in which the calls are complete."""
        self._script += answers

    async def received(self, calls: int = 1) -> Received:
        """Return the n-th call when it is there."""
        async with asyncio.timeout(_PATIENCE_S), self._arrived:
            await self._arrived.wait_for(lambda: len(self.calls) >= calls)
        return self.calls[calls - 1]

    def _protocol(self) -> _Connection:
        return _Connection(self)

    async def serve(self, reader: asyncio.StreamReader, connection: _Connection) -> None:
        """Answer one connection's requests until it ends."""
        task = asyncio.current_task()
        assert task is not None
        self._connections[task] = connection
        try:
            while await self._serve_one(reader, connection):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            del self._connections[task]
            connection.writer.close()

    async def _serve_one(self, reader: asyncio.StreamReader, connection: _Connection) -> bool:
        """Read and answer one request; tell whether another may follow."""
        call = await _read_head(reader)
        if call is None:
            return False
        self.busy_connections += 1
        try:
            await _read_body(reader, connection.writer, call)
            answer = self._script.pop(0) if self._script else self.always
            async with self._arrived:
                self.calls.append(call)
                self._arrived.notify_all()
            return await self._answer(call, answer, connection)
        finally:
            self.busy_connections -= 1
            call.finished.set()

    async def _answer(self, call: Received, answer: Answer, connection: _Connection) -> bool:
        telling = asyncio.ensure_future(self._tell(call, answer, connection.writer))
        gone = asyncio.ensure_future(connection.gone.wait())
        try:
            await asyncio.wait((telling, gone), return_when=asyncio.FIRST_COMPLETED)
            call.aborted = not telling.done() or telling.exception() is not None
            return telling.done() and telling.result()
        finally:
            for task in (telling, gone):
                task.cancel()
            await asyncio.gather(telling, gone, return_exceptions=True)

    async def _tell(self, call: Received, answer: Answer, writer: asyncio.StreamWriter) -> bool:
        if answer.gate is not None:
            await answer.gate.enter()
        await asyncio.sleep(answer.delay_s)
        if answer.hang:
            await asyncio.Event().wait()
        if answer.refuse:
            return _reset(writer)
        headers, body = self._content(call, answer)
        if answer.gzip:
            body = gzip.compress(body) if isinstance(body, bytes) else _gzipped(body)
            headers[b"content-encoding"] = b"gzip"
        return await _Telling(answer, writer).tell(headers, body)

    def _content(
        self, call: Received, answer: Answer
    ) -> tuple[dict[bytes, bytes], bytes | AsyncIterator[bytes]]:
        content_type, body = self._body(call, answer)
        headers = {b"content-type": content_type, **wire_of(call.path).headers(self._number(call))}
        return headers | dict(answer.headers), body

    def _body(self, call: Received, answer: Answer) -> tuple[bytes, bytes | AsyncIterator[bytes]]:
        if answer.body is not None:
            return _JSON, answer.body
        if answer.chunks is not None:
            return _EVENTS, _each(answer.chunks)
        if answer.status >= 400:
            number = self._number(call)
            error = wire_of(call.path).error(answer.error, answer.status, number)
            return _JSON, orjson.dumps(error)
        return self._default(call, answer)

    def _default(
        self, call: Received, answer: Answer
    ) -> tuple[bytes, bytes | AsyncIterator[bytes]]:
        wire, asked = wire_of(call.path), _asked(call)
        if asked is None:
            return _JSON, orjson.dumps(_echo(call))
        told = wire.answer(asked, call.credential, call.path, self._number(call))
        if wire.stream is None or not asked.get("stream"):
            return _JSON, orjson.dumps(told or _echo(call))
        return _EVENTS, _each(_ended(wire, wire.stream(asked, told), answer))

    def _number(self, call: Received) -> int:
        return 1 + next(at for at, each in enumerate(self.calls) if each is call)


class _Connection(asyncio.StreamReaderProtocol):
    """A connection that knows when the client left, also while nobody reads."""

    def __init__(self, provider: FakeProvider) -> None:
        self.gone = asyncio.Event()
        self.writer: asyncio.StreamWriter
        self._provider = provider
        super().__init__(asyncio.StreamReader(), self._serve)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        await self._provider.serve(reader, self)

    def eof_received(self) -> bool:
        self.gone.set()
        return bool(super().eof_received())

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone.set()
        super().connection_lost(exc)


class _Telling:
    """Writes one answer, with all the faults that were asked for."""

    def __init__(self, answer: Answer, writer: asyncio.StreamWriter) -> None:
        self._answer = answer
        self._writer = writer

    async def tell(self, headers: dict[bytes, bytes], body: bytes | AsyncIterator[bytes]) -> bool:
        answer = self._answer
        cuts = answer.cut_after is not None or answer.reset_after is not None
        lies = answer.content_length is not None
        whole = isinstance(body, bytes)
        if answer.until_close:
            headers[b"connection"] = b"close"
        elif isinstance(body, bytes):
            length = len(body) if answer.content_length is None else answer.content_length
            headers[b"content-length"] = b"%d" % length
        else:
            headers[b"transfer-encoding"] = b"chunked"
        self._writer.write(_head(answer.status, headers))
        parts = _each([body]) if isinstance(body, bytes) else body
        if not await self._parts(parts, framed=not whole and not answer.until_close):
            return False
        if not whole and not answer.until_close and not cuts:
            self._writer.write(b"0\r\n\r\n")
        await self._writer.drain()
        return not (cuts or lies or answer.until_close or answer.close)

    async def _parts(self, parts: AsyncIterator[bytes], *, framed: bool) -> bool:
        """Write the parts; False if the connection was reset on the way."""
        answer, writer = self._answer, self._writer
        at = 0
        async for part in parts:
            if at == answer.cut_after:
                return False
            if at == answer.reset_after:
                await writer.drain()
                return _reset(writer)
            if answer.chunk_gate is not None:
                await answer.chunk_gate.enter()
            if at:
                await asyncio.sleep(answer.chunk_delay_s)
            writer.write(b"%x\r\n%b\r\n" % (len(part), part) if framed else part)
            await writer.drain()
            at += 1
        return True


def _reset(writer: asyncio.StreamWriter) -> bool:
    """End the connection with RST in place of FIN."""
    writer.get_extra_info("socket").setsockopt(
        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
    )
    writer.transport.abort()
    return False


def _head(status: int, headers: dict[bytes, bytes]) -> bytes:
    lines = [b"HTTP/1.1 %d Fake" % status, *(b"%b: %b" % each for each in headers.items())]
    return b"\r\n".join(lines) + b"\r\n\r\n"


async def _read_head(reader: asyncio.StreamReader) -> Received | None:
    try:
        lines = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
    except asyncio.IncompleteReadError:
        return None
    method, target, _ = lines[0].decode("latin-1").split(" ")
    pairs = (line.partition(b":") for line in lines[1:] if line)
    headers = [(name.lower(), value.strip()) for name, _, value in pairs]
    return Received(method, target, headers, asyncio.get_running_loop().time())


async def _read_body(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, call: Received
) -> None:
    if call.header(b"expect").lower() == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    digest, kept = hashlib.sha256(), bytearray()
    async for part in _body_parts(reader, call):
        digest.update(part)
        call.size += len(part)
        if call.size <= _KEPT_BODY_BYTES:
            kept += part
    call.sha256 = digest.hexdigest()
    call.body = bytes(kept) if call.size <= _KEPT_BODY_BYTES else b""


async def _body_parts(reader: asyncio.StreamReader, call: Received) -> AsyncIterator[bytes]:
    if call.header(b"transfer-encoding").lower() != "chunked":
        left = int(call.header(b"content-length") or 0)
        while left:
            part = await reader.read(min(left, _READ_BYTES))
            if not part:
                raise asyncio.IncompleteReadError(b"", left)
            left -= len(part)
            yield part
        return
    while size := int(await reader.readline(), 16):
        yield (await reader.readexactly(size + 2))[:-2]
    await reader.readline()


async def _each(parts: Iterable[bytes] | AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    if isinstance(parts, AsyncIterable):
        async for part in parts:
            yield part
        return
    for part in parts:
        yield part


async def _gzipped(parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    squeeze = zlib.compressobj(wbits=31)
    async for part in parts:
        yield squeeze.compress(part) + squeeze.flush(zlib.Z_SYNC_FLUSH)
    yield squeeze.flush()


def _ended(wire: Wire, events: list[bytes], answer: Answer) -> list[bytes]:
    """The events of a stream, of which the last one may be an error or missing."""
    if answer.error is not None:
        return [*events[:-1], wire.error_event(answer.error, len(events) - 1)]
    return events if answer.done else events[:-1]


def _asked(call: Received) -> dict[str, Any] | None:
    """The body of a call that is JSON; None for all that can only be echoed."""
    if call.method != "POST":
        return None
    with contextlib.suppress(orjson.JSONDecodeError):
        body = call.json()
        return body if isinstance(body, dict) else None
    return None


def _echo(call: Received) -> dict[str, Any]:
    headers = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in call.headers]
    return {
        "object": "echo",
        "method": call.method,
        "target": call.target,
        "headers": headers,
        "size": call.size,
        "sha256": call.sha256,
    }
