"""A provider that answers at once: a protocol on uvloop, so that it is not what is measured."""

from __future__ import annotations

import asyncio
import json
import re
import resource
import sys
from typing import cast

import uvloop

from benchmarks import wire

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_ANSWER = wire.answer()
_REPLY = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
    len(_ANSWER),
    _ANSWER,
)
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
)


class _Provider(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are none of asyncio's classes.
        self._transport = cast("asyncio.Transport", transport)
        self._buffer = b""

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head_end = self._buffer.find(b"\r\n\r\n") + 4
        length = _LENGTH.search(self._buffer, 0, head_end)
        if head_end < 4 or length is None:
            return
        end = head_end + int(length[1])
        if len(self._buffer) < end:
            return
        body, self._buffer = self._buffer[head_end:end], self._buffer[end:]
        if b'"stream:' in body:
            self._begin_stream(json.loads(body))
        else:
            self._transport.write(_REPLY)

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


async def _serve(port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Provider, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))
    uvloop.run(_serve(int(sys.argv[1])))
