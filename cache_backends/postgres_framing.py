"""A look at what a server says, before the driver reads it."""

from __future__ import annotations

import asyncio
from typing import Any

# A message is a letter, a length that counts itself, and the rest.
HEAD_BYTES = 5
# The largest that Postgres sends.
MAX_MESSAGE_BYTES = 2**30


class Framing(asyncio.Protocol):
    """Passes on to `driver` what consists of messages; at anything else hangs up.

    asyncpg 0.32 goes on for ever, and the whole event loop with it, at a message of the type 0.
    """

    def __init__(self, driver: Any, transport: asyncio.Transport) -> None:
        self._driver = driver
        self._transport = transport
        self._skip = 0  # bytes until the next message
        self._head = b""  # the beginning of one that has not come in whole

    @classmethod
    def put_before(cls, connection: Any) -> None:
        """Have all that comes in on this connection looked at."""
        transport = connection._transport
        transport.set_protocol(cls(connection._protocol, transport))

    def data_received(self, data: bytes) -> None:
        said = self._head + data if self._head else data
        place, end = self._skip, len(said)
        while place < end:
            length = int.from_bytes(said[place + 1 : place + HEAD_BYTES])
            if not said[place] or length > MAX_MESSAGE_BYTES:
                self._transport.abort()
                return
            if place + HEAD_BYTES > end:
                break
            place += 1 + length
        self._head = said[place:]
        self._skip = max(0, place - end)
        self._driver.data_received(data)

    def eof_received(self) -> bool | None:
        ended: bool | None = self._driver.eof_received()
        return ended

    def connection_lost(self, exc: Exception | None) -> None:
        self._driver.connection_lost(exc)

    def pause_writing(self) -> None:
        self._driver.pause_writing()

    def resume_writing(self) -> None:
        self._driver.resume_writing()
