"""The least that any proxy does with this transport: pass on the request, pass back the answer."""

from __future__ import annotations

import os
from typing import Any

import httpx

from proxy.aiohttp_transport import AiohttpTransport

_UPSTREAM = os.environ.get("BENCHMARK_UPSTREAM", "")
_SENT = frozenset({b"authorization", b"content-type", b"accept", b"user-agent"})
_TOLD = frozenset({b"content-type", b"content-length"})

_transport = AiohttpTransport()


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    parts = [message := await receive()]
    while message.get("more_body"):
        parts.append(message := await receive())
    request = httpx.Request(
        scope["method"],
        _UPSTREAM + scope["path"],
        headers=[each for each in scope["headers"] if each[0] in _SENT],
        content=b"".join(part["body"] for part in parts),
    )
    response = await _transport.handle_async_request(request)
    try:
        headers = [(name.lower(), value) for name, value in response.headers.raw]
        head = [each for each in headers if each[0] in _TOLD]
        await send({"type": "http.response.start", "status": response.status_code, "headers": head})
        assert isinstance(response.stream, httpx.AsyncByteStream)
        async for chunk in response.stream:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body"})
    finally:
        await response.aclose()
