"""The other workers of this host, each reached at a Unix socket of its own in a private folder.

Who is asked by HTTP is any of them; what it cannot know it asks the others, with the asker's own
token. What came so is not handed on once more.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

from proxy.models import Headers

# Tells a worker that another one asks.
RELAYED = b"x-llm-cache-relayed"
ANSWER_S = 5.0
MAX_LINE_BYTES = 2**20
MAX_ANSWER_BYTES = 64 * 2**20
_SUFFIX = ".sock"

log = logging.getLogger("proxy.siblings")


class Siblings:
    """Knows nobody until it has joined a folder."""

    def __init__(self) -> None:
        self._folder: Path | None = None

    def join(self, folder: Path) -> Path:
        """Be one of those there; returns where this one's socket is to be."""
        self._folder = folder
        return self._own(folder)

    def others(self) -> list[Path]:
        if self._folder is None:
            return []
        own = self._own(self._folder)
        return sorted(each for each in self._folder.glob(f"*{_SUFFIX}") if each != own)

    async def ask(self, path: str, headers: Headers) -> list[Any]:
        """What each of the others answers to a GET, as JSON; who fails is left out. `headers` are
        those of the request that is asked here."""
        if is_relayed(headers):
            return []
        answers = await asyncio.gather(
            *(self._ask(place, path, headers) for place in self.others())
        )
        return [answer for answer in answers if answer is not None]

    async def follow(self, place: Path, path: str, headers: Headers) -> AsyncIterator[str]:
        """The events that one of the others tells, until it ends."""
        reader, writer = await _opened(place, path, headers)
        try:
            while line := await reader.readline():
                if line.startswith(b"data: "):
                    yield line[6:].decode().strip()
        except (OSError, ValueError):  # it has gone, or tells what is no line
            return
        finally:
            writer.close()

    @staticmethod
    def _own(folder: Path) -> Path:
        return folder / f"{os.getpid()}{_SUFFIX}"

    async def _ask(self, place: Path, path: str, headers: Headers) -> Any:
        try:
            async with asyncio.timeout(ANSWER_S):
                reader, writer = await _opened(place, path, headers)
                try:
                    return orjson.loads(await _whole(reader))
                finally:
                    writer.close()
        except (OSError, TimeoutError, ValueError) as exc:
            log.debug("%s does not answer: %s", place.name, type(exc).__name__)
            return None


async def _whole(reader: asyncio.StreamReader) -> bytes:
    """All that comes until the end; ValueError if it is too much."""
    answer = bytearray()
    while piece := await reader.read(MAX_LINE_BYTES):
        answer += piece
        if len(answer) > MAX_ANSWER_BYTES:
            raise ValueError("the answer is too long")
    return bytes(answer)


def is_relayed(headers: Headers) -> bool:
    return any(name == RELAYED for name, _ in headers)


async def _opened(
    place: Path, path: str, headers: Headers
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A GET whose head was read; the rest is the body. OSError if there is none."""
    reader, writer = await asyncio.open_unix_connection(place, limit=MAX_LINE_BYTES)
    try:
        # HTTP/1.0: the end of the connection is that of the body.
        token = b"".join(value for name, value in headers if name == b"authorization")
        head = (f"GET {path} HTTP/1.0", "host: localhost", f"{RELAYED.decode()}: 1")
        writer.write("\r\n".join(head).encode() + b"\r\nauthorization: " + token + b"\r\n\r\n")
        await writer.drain()
        status = await reader.readline()
        if status.split(b" ")[1:2] != [b"200"]:
            raise OSError("it refuses")
        while (await reader.readline()).strip():
            pass
    except BaseException:
        with suppress(OSError):
            writer.close()
        raise
    return reader, writer
