"""Bodies of lines, in and out: read and written at once, ended when the caller leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import orjson
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

NDJSON = "application/x-ndjson"


class Upload:
    """The body of a request, piece by piece; `left` waits until the caller is gone.

    Both read from the same place, so the second waits for the end of the first.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._read = asyncio.Event()

    async def pieces(self) -> AsyncIterator[bytes]:
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            if not (more := message.get("more_body", False)):
                self._read.set()
            yield message.get("body", b"")

    async def left(self) -> None:
        await self._read.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass


class Lines(Response):
    """Tells objects by the line, as they come. `upload` is the body that they are made of."""

    media_type = NDJSON

    def __init__(self, told: AsyncIterator[Mapping[str, Any]], upload: Upload) -> None:
        self.status_code = 200
        self.background = None
        self.init_headers()
        self._told = told
        self._upload = upload

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - as ASGI has it
        telling = asyncio.create_task(self._tell(send))
        leaving = asyncio.create_task(self._upload.left())
        try:
            await asyncio.wait({telling, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (telling, leaving):
                if not task.done():
                    task.cancel()
            await asyncio.wait({telling, leaving})
        if not telling.cancelled() and (error := telling.exception()) is not None:
            raise error

    async def _tell(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        try:
            async for each in self._told:
                line = orjson.dumps(each, option=orjson.OPT_APPEND_NEWLINE)
                await send({"type": "http.response.body", "body": line, "more_body": True})
        finally:
            if hasattr(self._told, "aclose"):
                await self._told.aclose()
        await send({"type": "http.response.body", "body": b""})
