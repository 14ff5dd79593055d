"""A file on its way to a proxy, which tells line by line what becomes of it.

It tells while it is still being sent to, and neither side waits for the other.
"""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import httpx
import orjson

from proxy.aiohttp_transport import AiohttpTransport
from proxy.cli.endings import OutOfReach, Refused
from proxy.cli.printing import is_watched, progress
from proxy.cli.remote import CONNECT_S, NDJSON, Place, as_query, reached, said, tells
from proxy.errors import ConfigError
from proxy.lines import LineSplitter

PIECE_BYTES = 256 * 2**10
# Of one line that the proxy tells: they are short.
MAX_TOLD_BYTES = 2**20


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
        with nullcontext() if self.file == "-" else _open(self.file) as file:
            pieces = _piped() if file is None else _read(file)
            try:
                async with aclosing(pieces), aclosing(self._told(pieces)) as told:
                    last = await self._follow(told, _count(file), listen)
            finally:
                await asyncio.sleep(0)  # in which the loop closes what was given up
        if last is None:
            raise OutOfReach(f"{self.place.url} broke off: do it again, nothing is done twice")
        return last

    async def _follow(
        self,
        told: AsyncIterator[dict[str, Any]],
        total: int | None,
        listen: Callable[[dict[str, Any]], None],
    ) -> dict[str, Any] | None:
        """What is told at last; `None` where that does not come."""
        with progress(self.path.removeprefix("/")) as bar:
            task = bar.add_task("", total=total)
            async for each in told:
                if each.pop("done", False):
                    return each
                if "lines" in each:  # of an import: so many so far
                    bar.update(task, completed=each["lines"])
                else:
                    bar.advance(task)
                listen(each)
        return None

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
                    if not tells(response, NDJSON):
                        await response.aread()
                        said(self.place, response)
                    # Not httpx's lines: they end at U+2028 as well, which JSON does not escape.
                    lines = LineSplitter(MAX_TOLD_BYTES)
                    async for piece in response.aiter_bytes():
                        for _, line in lines.feed(piece):
                            yield _heard(line)

    def _headers(self) -> dict[str, str]:
        given = {} if self.key is None else {"x-llm-cache-credential": self.key}
        return self.place.headers | {"accept": NDJSON, "content-type": NDJSON} | given


def _heard(line: bytes | None) -> dict[str, Any]:
    told: dict[str, Any] = orjson.loads(line or b"{}")
    if isinstance(told.get("error"), dict):  # of all, not of one line
        raise Refused(told["error"]["message"])
    return told


def _open(file: str) -> BinaryIO:
    try:
        return Path(file).open("rb")
    except OSError as exc:
        raise ConfigError(f"{file}: cannot be read: {exc.strerror}") from exc


async def _read(file: BinaryIO) -> AsyncGenerator[bytes, None]:
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


def _count(file: BinaryIO | None) -> int | None:
    """Its lines, for who watches."""
    if file is None or not is_watched():
        return None
    lines = sum(piece.count(b"\n") for piece in iter(lambda: file.read(PIECE_BYTES), b""))
    file.seek(0)
    return lines
