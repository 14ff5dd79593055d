"""The clients that people have, made as their users would, and what the proxy told them beside."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from anthropic import AsyncAnthropic
from langchain_anthropic import ChatAnthropic
from langchain_core.messages import BaseMessageChunk
from langchain_openai import ChatOpenAI
from openai import AsyncOpenAI

from tests.fakes.live_proxy import LiveProxy

KEY = "mine"


class Clients:
    """Makes clients of a served proxy, but without retries.

    `outcomes` has the `x-cache` of every answer that any of them got, shown to the user or not.
    """

    def __init__(self) -> None:
        self.outcomes: list[str] = []
        self._closings: list[Callable[[], Awaitable[None]]] = []

    def openai(self, live: LiveProxy, **options: Any) -> AsyncOpenAI:
        given: dict[str, Any] = {"base_url": live.base_url, "api_key": KEY, "max_retries": 0}
        client = AsyncOpenAI(**given | options)
        self._hear(client)
        return client

    def anthropic(self, live: LiveProxy, **options: Any) -> AsyncAnthropic:
        given: dict[str, Any] = {"base_url": f"{live.origin}/anthropic", "api_key": KEY}
        client = AsyncAnthropic(**given | {"max_retries": 0} | options)
        self._hear(client)
        return client

    def langchain(self, kind: type[Any], live: LiveProxy, **options: Any) -> Any:
        """A model of LangChain's that speaks to OpenAI."""
        given = {"base_url": live.base_url, "api_key": KEY, "model": "m", "max_retries": 0}
        model = kind(**given | options)
        self._hear(model.async_client._client)
        return model

    def chat_openai(self, live: LiveProxy, **options: Any) -> ChatOpenAI:
        model = self.langchain(ChatOpenAI, live, use_responses_api=True, **options)
        assert isinstance(model, ChatOpenAI)
        return model

    def chat_anthropic(self, live: LiveProxy, **options: Any) -> ChatAnthropic:
        given = {"base_url": f"{live.origin}/anthropic", "api_key": KEY, "model": "m"}
        model = ChatAnthropic(**given | {"max_retries": 0, "max_tokens": 100} | options)
        self._hear(model._async_client)
        return model

    async def aclose(self) -> None:
        for close in self._closings:
            await close()

    def _hear(self, sdk: AsyncOpenAI | AsyncAnthropic) -> None:
        sdk._client.event_hooks = {"response": [self._note]}
        self._closings.append(sdk.close)

    async def _note(self, response: httpx2.Response) -> None:
        self.outcomes.append(response.headers.get("x-cache", ""))


def forget_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever would send clients elsewhere, or as somebody else; and the world's certificates,
    which take each client 20 ms to read."""
    ours = ("OPENAI_", "ANTHROPIC_", "LANGSMITH_", "LANGCHAIN_")
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith(ours):
            monkeypatch.delenv(name)
    monkeypatch.setenv("SSL_CERT_FILE", str(Path(__file__).parent / "localhost.pem"))


async def merged(chunks: AsyncIterator[Any]) -> Any:
    """A message that came in chunks, as LangChain adds them up."""
    added: BaseMessageChunk | None = None
    async for chunk in chunks:
        added = chunk if added is None else added + chunk
    assert added is not None
    return added


def without_run(message: Any) -> dict[str, Any]:
    """All of a message, but for the id where LangChain makes one up for each run."""
    dumped: dict[str, Any] = message.model_dump()
    return dumped | {"id": None if dumped["id"].startswith("lc_run-") else dumped["id"]}
