"""The one who asks: the body he sends, his leaving, the bytes sent to him."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial
from typing import Any

from starlette.types import Message, Receive, Scope, Send

from proxy.errors import UpstreamFailure
from proxy.models import Reply
from proxy.patience import within

# Statuses whose answers have no body, whatever length they tell. RFC 9110, 6.4.1.
BODILESS = frozenset({204, 304})
# Offered by our server: cut the connection at once, also if the caller takes nothing.
ABORT_EXTENSION = "llm_cache_proxy.abort"
# The same: send an answer that is at hand in one go.
WHOLE_EXTENSION = "llm_cache_proxy.whole"
# The same: be told that the caller left, where ASGI needs a task of its own that waits for it.
LEAVING_EXTENSION = "llm_cache_proxy.leaving"
# Under which our server finds, in the lifespan's state, the seconds in which a caller takes a byte.
SEND_TIMEOUT = "llm_cache_proxy.send_timeout_s"
# What is handed to the server at a time; it holds about as much again for a caller who is slow.
PIECE_BYTES = 64 * 2**10


class Caller:
    """One HTTP exchange, seen from the server."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, send_timeout_s: float) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._send_timeout_s = send_timeout_s
        self._read: list[bytes] = []  # of the body, not handed out yet
        self._more = True  # may there be more of the body?
        self._all_read: asyncio.Event | None = None  # where somebody waits for it
        self.received = self.sent = 0  # bytes, of bodies
        self.started = False  # has the head of a response been sent?
        self.finished = False  # and all of its body?

    async def body_in_one_piece(self) -> bytes | None:
        """The body, if the first piece of it is all there is; else see `body` and `upload`."""
        piece = await self._next()
        self._read.append(piece)
        return None if self._more else piece

    async def body(self, limit: int) -> bytes | None:
        """The whole body, or `None` if it is larger than `limit` bytes: then see `upload`."""
        if not self._more and len(self._read) == 1:  # it is here
            return self._read[0] if len(self._read[0]) <= limit else None
        announced = next((v for n, v in self._scope["headers"] if n == b"content-length"), b"0")
        if announced.isdigit() and int(announced) > limit:
            return None
        size = sum(map(len, self._read))
        while self._more and size <= limit:
            chunk = await self._next()
            size += len(chunk)
            self._read.append(chunk)
        if size > limit:
            return None
        return self._read[0] if len(self._read) == 1 else b"".join(self._read)

    async def upload(self) -> AsyncIterator[bytes]:
        """The body, piece by piece."""
        for chunk in filter(None, self._read):
            yield chunk
        self._read.clear()
        while self._more:
            if chunk := await self._next():
                yield chunk

    async def _next(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._no_more()
            raise CallerLeft
        if not message.get("more_body", False):
            self._no_more()
        body: bytes = message.get("body", b"")
        self.received += len(body)
        return body

    def _no_more(self) -> None:
        self._more = False
        if self._all_read is not None:
            self._all_read.set()

    async def unless_gone(self, work: Coroutine[Any, Any, None]) -> None:
        """Do the work; give it up when the caller leaves."""
        working = asyncio.current_task()
        assert working is not None
        left = False

        def give_up() -> None:
            nonlocal left
            left = working.cancel()

        look_away = self._watch(give_up)
        try:
            await work
        except asyncio.CancelledError:
            if not left or working.uncancel() > 0:  # the server gives up, not the caller
                raise
        finally:
            look_away()

    def _watch(self, give_up: Callable[[], None]) -> Callable[[], None]:
        """Have `give_up` called when the caller leaves; return what ends that."""
        leaving = self._extensions.get(LEAVING_EXTENSION)
        if leaving is not None:
            leaving["add"](give_up)
            return partial(leaving["discard"], give_up)

        def leave(task: asyncio.Task[None]) -> None:
            if not task.cancelled():
                give_up()

        task = asyncio.create_task(self._leave())
        task.add_done_callback(leave)

        def look_away() -> None:
            task.remove_done_callback(leave)
            task.cancel()

        return look_away

    async def _leave(self) -> None:
        if self.has_body and self._more:
            self._all_read = asyncio.Event()
            await self._all_read.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass

    @property
    def has_body(self) -> bool:
        """Does the request announce a body?"""
        return any(
            (name == b"content-length" and value != b"0") or name == b"transfer-encoding"
            for name, value in self._scope["headers"]
        )

    async def send(self, reply: Reply) -> None:
        """Send a reply; what cannot be told whole is cut, never ended as if it were."""
        body = reply.body
        if isinstance(body, bytes):
            reply.headers.append((b"content-length", b"%d" % len(body)))
            if len(body) <= PIECE_BYTES and self._send_whole(reply, body):
                return
        try:
            await self._begin(reply)
            if not isinstance(body, bytes) or len(body) > PIECE_BYTES:
                async for chunk in _at_once(body) if isinstance(body, bytes) else body:
                    await self._send_chunk(chunk)
                body = b""
            await self._patiently({"type": "http.response.body", "body": body})
            self.sent += len(body)
        except (UpstreamFailure, TimeoutError):
            await self.cut()
            return
        self.finished = True

    def _send_whole(self, reply: Reply, body: bytes) -> bool:
        extension = self._extensions.get(WHOLE_EXTENSION)
        if extension is None or reply.status in BODILESS:
            return False
        self.started = self.finished = extension["send"](reply.status, reply.headers, body)
        self.sent = len(body) if self.finished else 0
        return self.finished

    @property
    def _extensions(self) -> dict[str, Any]:
        return self._scope.get("extensions") or {}

    async def _send_chunk(self, chunk: bytes) -> None:
        """Send a chunk in pieces: patience is for each of them, however much there is to take."""
        for start in range(0, len(chunk), PIECE_BYTES):
            piece = chunk[start : start + PIECE_BYTES]
            await self._patiently({"type": "http.response.body", "body": piece, "more_body": True})
            self.sent += len(piece)

    async def _begin(self, reply: Reply) -> None:
        self.started = True
        headers = reply.headers
        if reply.status in BODILESS:
            # The length that a 304 tells is that of a body which is not sent; uvicorn misses it.
            headers = [pair for pair in headers if pair[0] != b"content-length"]
        await self._patiently(
            {"type": "http.response.start", "status": reply.status, "headers": headers}
        )

    async def _patiently(self, message: Message) -> None:
        await within(self._send_timeout_s, self._send(message))

    async def cut(self) -> None:
        """End the connection so that nobody takes what was sent for the whole.

        Where the server offers no way to do so, returning without the last message is one: it
        closes the connection without the end of the body.
        """
        abort = self._extensions.get(ABORT_EXTENSION)
        if abort is not None:
            abort["abort"]()


async def _at_once(body: bytes) -> AsyncIterator[bytes]:
    yield body


class CallerLeft(Exception):
    """The caller went away while his body was being read."""
