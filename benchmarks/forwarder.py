"""The least that any proxy does: pass on the request, pass back the answer, over three clients."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterable
from typing import Any

import aiohttp
import httpx

from proxy.aiohttp_transport import AiohttpTransport

_UPSTREAM = os.environ.get("BENCHMARK_UPSTREAM", "")
_SENT = frozenset({b"authorization", b"content-type", b"accept", b"user-agent"})
_TOLD = frozenset({b"content-type", b"content-length"})

_client = httpx.AsyncClient(timeout=60.0, trust_env=False)
_transport = AiohttpTransport()
_session: list[aiohttp.ClientSession] = []  # made when there is a loop


async def over_httpx(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Over the client that Python programs take."""
    if scope["type"] != "http":
        return
    request = _client.build_request(
        "POST", _UPSTREAM + scope["path"], headers=_sent(scope), content=await _read(receive)
    )
    response = await _client.send(request, stream=True)
    try:
        await _tell(send, response.status_code, response.headers.raw, response.aiter_raw())
    finally:
        await response.aclose()


async def over_transport(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Over the proxy's own transport."""
    if scope["type"] != "http":
        return
    request = httpx.Request(
        "POST", _UPSTREAM + scope["path"], headers=_sent(scope), content=await _read(receive)
    )
    response = await _transport.handle_async_request(request)
    try:
        assert isinstance(response.stream, httpx.AsyncByteStream)
        chunks = aiter(response.stream)
        await _tell(send, response.status_code, response.headers.raw, chunks)
    finally:
        await response.aclose()


async def over_aiohttp(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Over aiohttp, which that transport is made of."""
    if scope["type"] != "http":
        return
    if not _session:
        connector = aiohttp.TCPConnector(limit=0)
        _session.append(aiohttp.ClientSession(connector=connector, auto_decompress=False))
    headers = {name.decode(): value.decode() for name, value in _sent(scope)}
    body = await _read(receive)
    url = _UPSTREAM + scope["path"]
    async with _session[0].post(url, headers=headers, data=body) as response:
        await _tell(send, response.status, response.raw_headers, response.content.iter_any())


def _sent(scope: dict[str, Any]) -> list[tuple[bytes, bytes]]:
    return [each for each in scope["headers"] if each[0] in _SENT]


async def _read(receive: Any) -> bytes:
    parts = [message := await receive()]
    while message.get("more_body"):
        parts.append(message := await receive())
    return b"".join(part["body"] for part in parts)


async def _tell(
    send: Any, status: int, raw: Iterable[tuple[bytes, bytes]], chunks: AsyncIterator[bytes]
) -> None:
    headers = [(name.lower(), value) for name, value in raw]
    head = [each for each in headers if each[0] in _TOLD]
    await send({"type": "http.response.start", "status": status, "headers": head})
    async for chunk in chunks:
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body"})
