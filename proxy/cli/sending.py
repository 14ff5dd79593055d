"""A file on its way to a proxy, which tells line by line what becomes of it.

It tells while it is still being sent to, and neither side waits for the other.
"""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import httpx
import orjson

from proxy.aiohttp_transport import AiohttpTransport
from proxy.cli.endings import OutOfReach, Refused
from proxy.cli.printing import is_watched, progress
from proxy.cli.remote import CONNECT_S, Place, as_query, reached, said
from proxy.errors import ConfigError

NDJSON = "application/x-ndjson"
PIECE_BYTES = 256 * 2**10


@dataclass(frozen=True, slots=True)
class Sending:
    """What is sent where; `file` is "-" for what is piped in."""

    place: Place
    path: str
    query: dict[str, Any]
    file: str
    key: str | None = None

    async def run(self, listen: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        """Send it all, and return what the proxy says at last. `listen` is told the rest."""
        pieces = _piped() if self.file == "-" else _read(_open(self.file))
        name = self.path.removeprefix("/")
        async with aclosing(pieces), aclosing(self._told(pieces)) as told:
            with progress(name) as bar:
                total = _count(self.file) if is_watched() else None
                task = bar.add_task("", total=total, note="")
                async for each in told:
                    if each.pop("done", False):
                        return each
                    if "lines" in each:  # of an import: so many so far
                        bar.update(task, completed=each["lines"])
                    else:
                        bar.advance(task)
                    listen(each)
        raise OutOfReach(f"{self.place.url} broke off: do it again, what is done is not done twice")

    async def _told(self, pieces: AsyncIterator[bytes]) -> AsyncGenerator[dict[str, Any], None]:
        async with httpx.AsyncClient(transport=AiohttpTransport(), trust_env=False) as http:
            request = http.build_request(
                "POST",
                f"{self.place.url}/admin{self.path}",
                params=as_query(self.query),
                headers=self._headers(),
                content=pieces,
                timeout=httpx.Timeout(None, connect=CONNECT_S),
            )
            del request.headers["transfer-encoding"]  # aiohttp says it itself
            with reached(self.place):
                response = await http.send(request, stream=True)
                async with aclosing(response):
                    if response.status_code != httpx.codes.OK:
                        await response.aread()
                        said(self.place, response)
                    async for line in response.aiter_lines():
                        yield _heard(line)

    def _headers(self) -> dict[str, str]:
        given = {} if self.key is None else {"x-llm-cache-credential": self.key}
        return self.place.headers | {"accept": NDJSON, "content-type": NDJSON} | given


def _heard(line: str) -> dict[str, Any]:
    told: dict[str, Any] = orjson.loads(line)
    if isinstance(told.get("error"), dict):  # of all, not of one line
        raise Refused(told["error"]["message"])
    return told


def _open(file: str) -> BinaryIO:
    try:
        return Path(file).open("rb")
    except OSError as exc:
        raise ConfigError(f"{file}: cannot be read: {exc.strerror}") from exc


async def _read(file: BinaryIO) -> AsyncGenerator[bytes, None]:
    with file:
        while piece := file.read(PIECE_BYTES):
            yield piece


async def _piped() -> AsyncGenerator[bytes, None]:
    """Of standard input, so that a Ctrl-C is heard while nothing comes."""
    kind = os.fstat(sys.stdin.fileno()).st_mode
    if not (stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind) or sys.stdin.isatty()):
        while piece := sys.stdin.buffer.read(PIECE_BYTES):
            yield piece
        return
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin.buffer
    )
    try:
        while piece := await reader.read(PIECE_BYTES):
            yield piece
    finally:
        transport.close()


def _count(file: str) -> int | None:
    """Its lines."""
    if file == "-":
        return None
    with Path(file).open("rb") as opened:
        return sum(piece.count(b"\n") for piece in iter(lambda: opened.read(PIECE_BYTES), b""))
