"""From LangChain's SQLite cache to hits here: filled, imported and asked for by real models."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from langchain_community.cache import SQLiteCache
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from typer.testing import CliRunner, Result

from proxy.cli import app
from tests.fakes.clients import KEY, Clients, without_run
from tests.fakes.live_proxy import LiveProxy, StartProxy
from tests.fakes.provider import FakeProvider

SCHEMA = {"title": "Joke", "type": "object", "properties": {"b": {"type": "string"}, "a": {}}}
CALLED = {
    "id": "chatcmpl-calls",
    "object": "chat.completion",
    "created": 1,
    "model": "m-1",
    "choices": [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": "call_1",
                        "type": "function",
                        "function": {"name": "weather", "arguments": '{"city": "Köln", "n": 1.0}'},
                    },
                    {
                        "id": "call_2",
                        "type": "function",
                        "function": {"name": "weather", "arguments": "{}"},
                    },
                ],
            },
            "finish_reason": "tool_calls",
        }
    ],
    "usage": {
        "prompt_tokens": 5,
        "completion_tokens": 7,
        "total_tokens": 12,
        "prompt_tokens_details": {"cached_tokens": 3},
    },
}


@tool
def weather(city: str) -> str:
    """Tell the weather."""
    return f"rain in {city}"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / ".langchain.db"


@pytest.fixture
async def live(proxy: StartProxy, tmp_path: Path) -> LiveProxy:
    return await proxy(cache={"url": f"sqlite:///{tmp_path}/cache.db"})


Ask = Callable[[Any], Awaitable[Any]]


@pytest.fixture
def before(clients: Clients, provider: FakeProvider, file: Path) -> Callable[..., Any]:
    """A model as it was before: at the provider, with LangChain's cache."""
    cache = SQLiteCache(str(file))

    def make(**options: Any) -> Any:
        there: Any = provider  # has a base_url as well
        return clients.langchain(ChatOpenAI, there, cache=cache, **options)

    return make


@pytest.fixture
def after(clients: Clients, live: LiveProxy) -> Callable[..., Any]:
    """The same model, pointed at the proxy and without that cache."""

    def make(**options: Any) -> Any:
        base_url = f"{live.origin}/~namespace=old/v1"
        return clients.langchain(ChatOpenAI, live, **{"base_url": base_url} | options)

    return make


async def imported(
    file: Path, live: LiveProxy, tmp_path: Path, *arguments: str, namespace: str = "old"
) -> Result:
    """What the command printed."""
    given = [str(file), "--namespace", namespace, "--cache", f"sqlite:///{tmp_path}/cache.db"]
    env = {"COLUMNS": "200", "OPENAI_API_KEY": KEY}
    upstream = ("--upstream", live.provider.base_url)
    run = CliRunner().invoke
    return await asyncio.to_thread(
        run, app, ["import-langchain", *given, *upstream, *arguments], env=env
    )


def counts(result: Result) -> dict[str, int]:
    """The numbers of the summary; of what was skipped, by reason."""
    assert result.exit_code == 0, result.output
    lines = re.findall(r"(?m)^(\w[\w ]*?) +(\d+) +(.*\S)", result.stdout)
    return {why if what == "skipped" else what: int(count) for what, count, why in lines}


ASKED: dict[str, tuple[dict[str, Any], Any]] = {
    "text": ({}, "Tell me a joke"),
    "settings": ({"temperature": 0.0, "max_tokens": 9, "seed": 1, "stop": ["x"]}, "Hi ☂"),
    "system": ({}, [SystemMessage("Be kind."), HumanMessage("Hi")]),
    "history": ({}, [HumanMessage("Hi"), AIMessage("Hello", id="1"), HumanMessage("And?")]),
    "parts": ({}, [HumanMessage([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}])]),
    "more": ({"extra_body": {"top_k": 3}, "model_kwargs": {"user": "me"}}, "Hi"),
    "reasoning": ({"model": "o3-mini", "reasoning_effort": "low"}, [SystemMessage("s")]),
}


@pytest.mark.parametrize("name", ASKED)
async def test_a_model_hits_what_it_had_asked_before(
    before: Callable[..., Any],
    after: Callable[..., Any],
    clients: Clients,
    provider: FakeProvider,
    live: LiveProxy,
    file: Path,
    tmp_path: Path,
    name: str,
) -> None:
    """The same question at the proxy is a hit, with the same message, whole and streamed."""
    options, asked = ASKED[name]
    original = await before(**options).ainvoke(asked)
    assert counts(await imported(file, live, tmp_path))["imported"] == 1
    again = await after(**options).ainvoke(asked)
    streamed = "".join([chunk.text async for chunk in after(**options).astream(asked)])
    assert without_run(again) == without_run(original)
    assert streamed == original.text
    assert clients.outcomes[1:] == ["HIT", "HIT"]
    assert len(provider.calls) == 1
