"""The least a Python server does: an ASGI app that reads the body and returns fixed bytes."""

from __future__ import annotations

import os
from typing import Any

from benchmarks import wire

_MODEL = os.environ.get("BENCHMARK_MODEL", wire.MODEL)
_TYPE = b"text/event-stream" if _MODEL.startswith("stream:") else b"application/json"
_ANSWER = wire.whole(_MODEL, "the-same-for-everyone")
_START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [
        (b"content-type", _TYPE),
        (b"content-length", str(len(_ANSWER)).encode()),
    ],
}
_BODY = {"type": "http.response.body", "body": _ANSWER}


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    await send(_START)
    await send(_BODY)
