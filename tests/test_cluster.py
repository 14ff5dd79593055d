"""`coalesce = "cluster"`: processes that share a cache share each fetch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from proxy.app import create_app
from proxy.config import load_settings
from proxy.errors import ConfigError
from tests.fakes.chat import MINE, asking, words
from tests.fakes.oracle import expected
from tests.fakes.process import ProxyProcess
from tests.fakes.provider import Answer, FakeProvider, Gate
from tests.fakes.replicas import STORES, SharedStore, replicas

if TYPE_CHECKING:
    from tests.fakes.fault_proxy import FaultProxy

JOKE = expected(asking(), credential="Bearer mine")
CLUSTER = 'coalesce = "cluster"\nlookup_timeout_s = 2\n'
# The lease of a holder that is killed, and as much again on a busy machine.
PATIENCE_S = 10.0


async def ask(client: httpx.AsyncClient, process: ProxyProcess, *, stream: bool = False) -> str:
    """X-Cache of an answer that is the right one."""
    url, body = f"{process.base_url}/chat/completions", asking(stream=stream)
    answer = await client.post(url, json=body, headers=MINE)
    assert answer.status_code == 200
    assert words(answer.content) == JOKE
    return answer.headers["x-cache"]


async def called(provider: FakeProvider, times: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while len(provider.calls) < times:  # noqa: ASYNC110 - it waits for calls less long
            await asyncio.sleep(0.01)


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest) -> SharedStore:
    return SharedStore.of(request.param, request)


@pytest.fixture
def file(request: pytest.FixtureRequest) -> SharedStore:
    return SharedStore.of("sqlite", request)


@pytest.fixture
def client() -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None)
    return httpx.AsyncClient(trust_env=False, timeout=30.0, limits=limits)


@pytest.mark.parametrize(
    "url",
    [
        "memory://",
        "null://",
        "langchain:langchain_core.caches:InMemoryCache",
        "cache_backends:InMemoryCache",
    ],
)
def test_a_cache_that_lends_no_leases_is_refused(url: str) -> None:
    """At the start, with those that do."""
    settings = load_settings(overrides={"cache": {"url": url, "coalesce": "cluster"}})
    with pytest.raises(ConfigError, match=r"^cache\.coalesce: .* sqlite, redis or postgresql"):
        create_app(settings)


async def test_many_equal_calls_of_four_processes_are_one_call(
    store: SharedStore, provider: FakeProvider, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    """Fifty at each of them, plain ones or streams; all get the whole answer."""
    provider.always = Answer(delay_s=0.5)
    configs = [store.config(CLUSTER)] * 4
    async with replicas(tmp_path, provider.base_url, *configs) as processes, client:
        asked = (ask(client, process) for process in processes * 50)
        outcomes = await asyncio.gather(*asked)
    assert len(provider.calls) == 1
    assert outcomes.count("MISS") == 1
    assert set(outcomes) == {"MISS", "COLLAPSED", "HIT"}


async def test_many_equal_streams_are_one_call(
    file: SharedStore, provider: FakeProvider, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    """Live in the process that fetches it, in one go elsewhere."""
    provider.always = Answer(chunk_delay_s=0.03)
    configs = [file.config(CLUSTER)] * 2
    async with replicas(tmp_path, provider.base_url, *configs) as processes, client:
        asked = (ask(client, process, stream=True) for process in processes * 10)
        outcomes = await asyncio.gather(*asked)
    assert len(provider.calls) == 1
    assert outcomes.count("MISS") == 1


async def test_processes_do_not_wait_for_each_other_unless_they_are_told_to(
    file: SharedStore, provider: FakeProvider, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    """By default each fetches for itself."""
    provider.always = Answer(gate=(gate := Gate()))
    configs = [file.config("")] * 2
    async with replicas(tmp_path, provider.base_url, *configs) as processes, client:
        asked = [asyncio.create_task(ask(client, process)) for process in processes]
        await called(provider, 2)
        await gate.open()
        assert await asyncio.gather(*asked) == ["MISS", "MISS"]


async def test_a_process_that_is_killed_holds_the_others_up_for_its_lease_only(
    file: SharedStore, provider: FakeProvider, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    """Then one of them fetches, for all of them."""
    provider.always = Answer(gate=(gate := Gate()))
    configs = [file.config(CLUSTER)] * 3
    async with replicas(tmp_path, provider.base_url, *configs) as processes, client:
        first = asyncio.create_task(ask(client, processes[0]))
        await called(provider, 1)
        asked = [asyncio.create_task(ask(client, each)) for each in processes[1:] * 5]
        await processes[0].kill()
        with pytest.raises(httpx.TransportError):
            await first
        await called(provider, 2)
        await gate.open()
        assert (await asyncio.gather(*asked)).count("MISS") == 1
    assert len(provider.calls) == 2


async def test_an_answer_that_cannot_be_stored_makes_no_queue(
    file: SharedStore, provider: FakeProvider, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    """Those who waited for it in vain ask the provider side by side."""
    provider.always = Answer(gate=(gate := Gate()))
    configs = [file.config(CLUSTER + 'refuse_finish_reasons = ["stop"]\n')] * 4
    async with replicas(tmp_path, provider.base_url, *configs) as processes, client:
        asked = [asyncio.create_task(ask(client, processes[0]))]
        await called(provider, 1)
        asked += [asyncio.create_task(ask(client, each)) for each in processes[1:]]
        await asyncio.sleep(0.2)
        assert len(provider.calls) == 1
        await gate.release()
        await called(provider, 4)
        await gate.open()
        assert await asyncio.gather(*asked) == ["MISS"] * 4


async def test_without_the_store_each_process_fetches_for_itself(
    redis_url: str,
    fresh_name: str,
    fault_proxy: Callable[[str], FaultProxy],
    provider: FakeProvider,
    client: httpx.AsyncClient,
    tmp_path: Path,
) -> None:
    """Nobody waits for a turn that nobody can give."""
    network = fault_proxy(redis_url)
    store = SharedStore(network.url, {"prefix": fresh_name})
    provider.always = Answer(gate=(gate := Gate()))
    configs = [store.config(CLUSTER)] * 2
    async with replicas(tmp_path, provider.base_url, *configs) as processes, client:
        network.refuse()
        asked = [asyncio.create_task(ask(client, process)) for process in processes * 5]
        await called(provider, 2)
        await gate.open()
        assert set(await asyncio.gather(*asked)) <= {"MISS", "COLLAPSED", "BYPASS"}
