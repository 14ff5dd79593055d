"""A provider that answers at once: a protocol on uvloop, so that it is not what is measured."""

from __future__ import annotations

import asyncio
import functools
import json
import re
import resource
import sys
from typing import cast

import uvloop

from benchmarks import wire

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
# Asks for a streamed answer as a body of known length: for caches that know no streams.
_WHOLE = b"\r\nx-whole: "
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
)


class _Provider(asyncio.Protocol):
    asked = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are none of asyncio's classes.
        self._transport = cast("asyncio.Transport", transport)
        self._buffer = b""

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head_end = self._buffer.find(b"\r\n\r\n") + 4
        if head_end < 4:
            return
        if self._buffer.startswith(b"GET "):
            self._write(_reply("text/plain", b"%d" % _Provider.asked))
            self._buffer = b""
            return
        length = _LENGTH.search(self._buffer, 0, head_end)
        if length is None:
            return
        end = head_end + int(length[1])
        if len(self._buffer) < end:
            return
        head, body = self._buffer[:head_end], self._buffer[head_end:end]
        self._buffer = self._buffer[end:]
        _Provider.asked += 1
        self._answer(head, body)

    def _answer(self, head: bytes, body: bytes) -> None:
        model, word = _model(body), wire.word_of(body)
        if not model.startswith("stream:"):
            before, after, wait_s = _around_word(model, len(word))
            self._write(before + word + after, wait_s)
        elif _WHOLE in head.lower():
            self._write(_reply("text/event-stream", wire.whole(model, word.decode())))
        else:
            self._begin_stream(json.loads(body))

    def _write(self, reply: bytes, wait_s: float = 0.0) -> None:
        if wait_s:
            asyncio.get_running_loop().call_later(wait_s, self._transport.write, reply)
        else:
            self._transport.write(reply)

    def _begin_stream(self, asked: dict[str, object]) -> None:
        _, chunks, interval = str(asked["model"]).split(":")
        messages = asked["messages"]
        assert isinstance(messages, list)
        prompt = messages[-1]["content"].partition(" ")[0]
        self._events = wire.events(prompt, int(chunks), usage="stream_options" in asked)
        self._interval = float(interval)
        self._transport.write(_STREAM_HEAD)
        self._next_event()

    def _next_event(self) -> None:
        if self._transport.is_closing():
            return
        event = next(self._events, None)
        if event is None:
            self._transport.write(b"0\r\n\r\n")
            return
        self._transport.write(b"%x\r\n%b\r\n" % (len(event), event))
        loop = asyncio.get_running_loop()
        if self._interval:
            loop.call_later(self._interval, self._next_event)
        else:
            loop.call_soon(self._next_event)


def _model(body: bytes) -> str:
    begin = body.find(b'"model":"') + 9
    return body[begin : body.find(b'"', begin)].decode()


@functools.cache
def _around_word(model: str, length: int) -> tuple[bytes, bytes, float]:
    """The reply before and after a word of so many bytes, and the seconds it takes."""
    word = "x" * length
    before, _, after = _reply("application/json", wire.whole(model, word)).partition(word.encode())
    _, _, wait = model.partition(":")[2].partition(":")
    return before, after, float(wait or 0)


def _reply(content_type: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


async def _serve(port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Provider, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))
    uvloop.run(_serve(int(sys.argv[1])))
