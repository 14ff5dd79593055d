"""Caches of both worlds in use: ours under LangChain's models, LangChain's under the proxy."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.globals import get_llm_cache, set_llm_cache
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI

from cache_backends import SQLiteCache
from cache_backends.langchain import LangChainCache, to_langchain
from tests.cache_backends.langchain_caches import QUIET, Place, sqlalchemy
from tests.fakes.chat import MINE, YOURS, asker, tells, words
from tests.fakes.clients import Clients
from tests.fakes.clock import FakeClock
from tests.fakes.live_proxy import LiveProxy, StartProxy
from tests.fakes.provider import FakeProvider

pytestmark = QUIET


@tool
def weather(city: str) -> str:
    """Tell the weather."""
    return f"rain in {city}"


def lasting(message: Any) -> dict[str, Any]:
    """All of a message but its run's id, and the price of a hit: LangChain sets it to nothing."""
    dumped = message.model_dump()
    usage = dict(dumped["usage_metadata"] or {})
    usage.pop("total_cost", None)
    return dumped | {"id": None, "usage_metadata": usage}


@pytest.fixture
async def ours(tmp_path: Path) -> AsyncIterator[SQLiteCache]:
    cache = SQLiteCache(tmp_path / "ours.db")
    yield cache
    await cache.aclose()


@pytest.fixture
def everybodys(ours: SQLiteCache) -> Iterator[None]:
    before = get_llm_cache()
    set_llm_cache(to_langchain(ours))
    yield
    set_llm_cache(before)


def model(
    clients: Clients, provider: FakeProvider, kind: type[Any] = ChatOpenAI, **how: Any
) -> Any:
    there: Any = provider  # has a base_url, as a served proxy has
    return clients.langchain(kind, there, **how)


async def test_a_model_with_a_cache_of_ours(
    clients: Clients, provider: FakeProvider, ours: SQLiteCache
) -> None:
    """The second call asks nobody, and its message is the same in all its parts."""
    chat = model(clients, provider, cache=to_langchain(ours), logprobs=True)
    first, second = [await chat.ainvoke("Tell me a joke ☂") for _ in range(2)]
    third = await asyncio.to_thread(chat.invoke, "Tell me a joke ☂")
    assert lasting(first) == lasting(second) == lasting(third)
    assert first.response_metadata["finish_reason"] == "stop"
    assert first.usage_metadata["total_tokens"] > 0
    assert len(provider.calls) == 1
    await model(clients, provider, cache=to_langchain(ours), temperature=0.5).ainvoke("Hi")
    await model(clients, provider, cache=to_langchain(ours), temperature=0.6).ainvoke("Hi")
    assert len(provider.calls) == 3


@pytest.mark.usefixtures("everybodys")
async def test_models_with_a_cache_of_ours_for_all(
    clients: Clients, provider: FakeProvider
) -> None:
    """Set once, it serves chats with several choices and completions with several prompts."""
    chat = model(clients, provider, n=2)
    told = [(await chat.agenerate([[HumanMessage("Hi")]])).generations[0] for _ in range(2)]
    assert [each.text for each in told[0]] == [each.text for each in told[1]]
    assert len(told[0]) == 2
    assert len(provider.calls) == 1
    completion = model(clients, provider, OpenAI)
    texts = [await completion.abatch(["a", "b"]) for _ in range(2)]
    assert texts[0] == texts[1]
    assert len(provider.calls) == 2


@pytest.mark.usefixtures("everybodys")
async def test_a_model_that_calls_tools(clients: Clients, provider: FakeProvider) -> None:
    """Where a cache is set, also what is bound to a model is part of the question."""
    chat = model(clients, provider)
    await chat.ainvoke("Rain?")
    told = [await chat.bind_tools([weather]).ainvoke("Rain?") for _ in range(2)]
    assert lasting(told[0]) == lasting(told[1])
    assert len(provider.calls) == 2


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def live(
    proxy: StartProxy, tmp_path: Path, request: pytest.FixtureRequest, clock: FakeClock
) -> AsyncIterator[LiveProxy]:
    """A proxy whose entries are in LangChain's SQLAlchemyCache."""
    with ExitStack() as stack:
        cache = sqlalchemy(Place(tmp_path, request.getfixturevalue, stack))
        yield await proxy(LangChainCache(cache, clock=clock), clock, cache={"ttl": 60})


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
async def test_the_proxy_with_a_cache_of_langchains(
    client: httpx.AsyncClient, live: LiveProxy, clock: FakeClock, stream: bool
) -> None:
    """Misses, hits told both ways, their age, and their end."""
    ask = asker(client, live)
    first = await ask(stream=stream)
    clock.advance(20)
    second, third = await ask(), await ask(stream=True)
    assert [tells(each)[0] for each in (first, second, third)] == ["MISS", "HIT", "HIT"]
    assert words(first.content) == words(second.content) == words(third.content)
    assert second.headers["age"] == "20"
    assert "ttl=40" in tells(second)[1]
    clock.advance(41)
    assert tells(await ask())[0] == "MISS"
    assert len(live.provider.calls) == 2


async def test_callers_are_kept_apart_there_too(client: httpx.AsyncClient, live: LiveProxy) -> None:
    """Another's key, another's entry."""
    ask = asker(client, live)
    mine, yours = await ask(MINE), await ask(YOURS)
    assert words(mine.content) != words(yours.content)
    for headers, first in ((MINE, mine), (YOURS, yours)):
        again = await ask(headers)
        assert (tells(again)[0], again.json()) == ("HIT", first.json())


async def test_it_is_named_in_the_settings(
    client: httpx.AsyncClient, proxy: StartProxy, tmp_path: Path
) -> None:
    """By URL, with what its class is told in a table; two proxies share what it keeps."""
    options = {"database_path": f"{tmp_path}/theirs.db"}
    cache = {"url": "langchain:langchain_community.cache:SQLiteCache", "options": options}
    for outcome in ("MISS", "HIT"):
        told = tells(await asker(client, await proxy(cache=cache))(n=3))
        assert told[0] == outcome
    assert "detail=langchain" in told[1]


class Forgetful(InMemoryCache):
    def lookup(self, prompt: str, llm_string: str) -> None:
        return None


async def test_what_it_mangles_is_said_at_the_start(
    proxy: StartProxy,
    caplog: pytest.LogCaptureFixture,
    client: httpx.AsyncClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A cache that gives nothing back is told of, and requests are served."""
    monkeypatch.setitem(sys.modules, "own_cache", sys.modules[__name__])
    live = await proxy(cache={"url": "langchain:own_cache:Forgetful"})
    assert tells(await asker(client, live)())[0] == "MISS"
    assert (
        "Forgetful keeps nothing that could be used, all is a miss: it does not find" in caplog.text
    )
