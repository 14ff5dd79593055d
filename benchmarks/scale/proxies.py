"""Proxies on one store, all in this process, and a provider that they ask."""

from __future__ import annotations

import asyncio
from collections import Counter
from types import TracebackType
from typing import Any, Self

import httpx

from benchmarks.scale.calls import Server
from benchmarks.scale.counted import Calls
from cache_backends import MemoryCache, TieredCache
from proxy.app import create_app
from proxy.config import load_settings

MEMORY_BYTES = 64 * 2**20
SYSTEM = "You answer questions about the products of a shop. Be brief, be kind, name your sources."
_HEADERS = {"authorization": "Bearer benchmark"}


class Proxies:
    """So many workers. `asked` counts the calls of the provider, `calls` those of the store."""

    def __init__(
        self, server: Server, name: str, workers: int, coalesce: str, upstream_s: float
    ) -> None:
        self.asked = 0
        self._upstream_s = upstream_s
        stores = [server.open(name, telling=True) for _ in range(workers)]
        self._calls = [Calls(store) for store in stores]
        settings = load_settings(
            overrides={
                "cache": {"coalesce": coalesce, "lookup_timeout_s": 5.0},
                "server": {"log_level": "error"},
            }
        )
        self._apps = [
            create_app(
                settings,
                transport=httpx.MockTransport(self._provide),
                cache=TieredCache(MemoryCache(max_bytes=MEMORY_BYTES), store),
            )
            for store in stores
        ]
        self._clients = [
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:8484")
            for app in self._apps
        ]

    async def __aenter__(self) -> Self:
        for app in self._apps:
            await app.start()
        for each in self._calls:
            each.made.clear()
        return self

    async def __aexit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        for client, app in zip(self._clients, self._apps, strict=True):
            await client.aclose()
            await app.aclose()

    @property
    def calls(self) -> Counter[str]:
        return sum((each.made for each in self._calls), Counter[str]())

    async def ask(self, worker: int, question: int) -> str:
        """What became of it: memory, store, miss or collapsed."""
        messages = [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": f"What about product {question}?"},
        ]
        body = {"model": "gpt-5-mini", "messages": messages}
        answer = await self._clients[worker].post(
            "/v1/chat/completions", json=body, headers=_HEADERS
        )
        answer.raise_for_status()
        if answer.headers["x-cache"] != "HIT":
            return answer.headers["x-cache"].lower()
        return "memory" if "detail=memory" in answer.headers["cache-status"] else "store"

    async def _provide(self, _: httpx.Request) -> httpx.Response:
        self.asked += 1
        await asyncio.sleep(self._upstream_s)
        return httpx.Response(200, json=_answer(self.asked))


def _answer(number: int) -> dict[str, Any]:
    message = {"role": "assistant", "content": "It is blue. " * 20}
    return {
        "id": f"chatcmpl-{number}",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "gpt-5-mini",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 40, "completion_tokens": 60, "total_tokens": 100},
    }
