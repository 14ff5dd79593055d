"""A provider that is built in: it speaks OpenAI's wire format, and tells one joke."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import orjson

JOKE = (
    "A programmer's partner says: go to the shop, buy a loaf of bread, and if they have eggs, buy "
    "a dozen. The programmer comes home with twelve loaves. Why on earth? Because they had eggs, "
    "of course, and I checked that first."
)

_Receive = Callable[[], Awaitable[dict[str, Any]]]
_Send = Callable[[dict[str, Any]], Awaitable[None]]


class JokeProvider:
    """A provider as an ASGI app: OpenAI's wire format, and the pace of a model (seconds)."""

    def __init__(self, first_word_s: float = 0.4, word_s: float = 0.025) -> None:
        self._first_word_s = first_word_s
        self._word_s = word_s

    async def __call__(self, scope: dict[str, Any], receive: _Receive, send: _Send) -> None:
        body = await _body(receive)
        if scope["path"] == "/v1/models":
            await _send_json(send, {"object": "list", "data": [{"id": "joker", "object": "model"}]})
        elif scope["path"] == "/v1/chat/completions":
            await self._chat(orjson.loads(body), send)
        elif scope["path"] == "/v1/embeddings":
            await _send_json(send, _embeddings(orjson.loads(body)))
        else:
            await _send_json(send, {"error": {"message": "The demo has jokes only."}}, 404)

    async def _chat(self, request: dict[str, Any], send: _Send) -> None:
        about = {
            "id": "chatcmpl-demo",
            "created": int(time.time()),
            "model": request.get("model") or "joker",
        }
        if request.get("stream"):
            options = request.get("stream_options") or {}
            await _send_head(send, 200, b"text/event-stream")
            async for event in self._events(about, bool(options.get("include_usage"))):
                await send({"type": "http.response.body", "body": event, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
            return
        async for _ in self._words():
            pass
        message = {"role": "assistant", "content": JOKE}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        answer = {"object": "chat.completion", "choices": [choice], "usage": _usage()}
        await _send_json(send, about | answer)

    async def _events(self, about: dict[str, Any], usage: bool) -> AsyncIterator[bytes]:
        def chunk(delta: dict[str, str], finish_reason: str | None = None) -> bytes:
            choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
            return _event(about | {"object": "chat.completion.chunk", "choices": [choice]})

        async for word in self._words():
            yield chunk({"role": "assistant", "content": word})
        yield chunk({}, "stop")
        if usage:
            last = {"object": "chat.completion.chunk", "choices": [], "usage": _usage()}
            yield _event(about | last)
        yield b"data: [DONE]\n\n"

    async def _words(self) -> AsyncIterator[str]:
        await asyncio.sleep(self._first_word_s)
        for number, word in enumerate(JOKE.split()):
            if number:
                await asyncio.sleep(self._word_s)
            yield f" {word}" if number else word


async def _body(receive: _Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


async def _send_json(send: _Send, value: dict[str, Any], status: int = 200) -> None:
    await _send_head(send, status, b"application/json")
    await send({"type": "http.response.body", "body": orjson.dumps(value)})


async def _send_head(send: _Send, status: int, content_type: bytes) -> None:
    headers = [(b"content-type", content_type)]
    await send({"type": "http.response.start", "status": status, "headers": headers})


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(value) + b"\n\n"


def _usage() -> dict[str, int]:
    words = len(JOKE.split())
    return {"prompt_tokens": 4, "completion_tokens": words, "total_tokens": 4 + words}


def _embeddings(request: dict[str, Any]) -> dict[str, Any]:
    texts = request["input"] if isinstance(request["input"], list) else [request["input"]]
    data = [
        {"object": "embedding", "index": index, "embedding": [len(str(text)) / 100, 0.5]}
        for index, text in enumerate(texts)
    ]
    usage = {"prompt_tokens": len(texts), "total_tokens": len(texts)}
    return {"object": "list", "data": data, "model": request["model"], "usage": usage}
