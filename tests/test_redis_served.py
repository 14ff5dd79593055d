"""A served proxy and a Redis in every bad state: answers stay right, and it is used again.

All with and without memory before the cache.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import httpx
import pytest
from redis import Redis

from proxy.store import Breaker
from tests.fakes.callers import Callers, settled, together, with_and_without_memory
from tests.fakes.live_proxy import StartProxy
from tests.fakes.redis_servers import RedisServer
from tests.fakes.servers import HOST, free_port

StartServer = Callable[..., RedisServer]
PASSWORD = "right-secret"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is skipped is tried again soon: the tests need not wait."""
    monkeypatch.setattr(Breaker, "RETRY_S", 0.3)


@pytest.fixture
def server(redis_server: StartServer) -> RedisServer:
    return redis_server(password=PASSWORD)


@pytest.fixture
def operator(server: RedisServer) -> Iterator[Redis]:
    """Who was there before the trouble began."""
    with Redis.from_url(server.url, decode_responses=True) as client:
        client.ping()
        yield client


def drop_clients(operator: Redis) -> None:
    operator.client_kill_filter(_type="normal", skipme=True)


def fill(operator: Redis) -> None:
    operator.config_set("maxmemory", 1)


def empty(operator: Redis) -> None:
    operator.config_set("maxmemory", 0)


def make_replica(operator: Redis) -> None:
    operator.replicaof(HOST, free_port())


def make_primary(operator: Redis) -> None:
    operator.replicaof("NO", "ONE")


def change_password(operator: Redis) -> None:
    operator.config_set("requirepass", "another-secret")
    drop_clients(operator)


def restore_password(operator: Redis) -> None:
    operator.config_set("requirepass", PASSWORD)


def use_up_connections(operator: Redis) -> None:
    operator.config_set("maxclients", 1)
    drop_clients(operator)


def free_connections(operator: Redis) -> None:
    operator.config_set("maxclients", 1000)


Change = Callable[[Redis], None]
UNWRITABLE: dict[str, tuple[Change, Change]] = {
    "is out of memory": (fill, empty),
    "is a replica, which takes no writes": (make_replica, make_primary),
}
UNUSABLE: dict[str, tuple[Change, Change]] = {
    "does not accept the user or password": (change_password, restore_password),
    "takes no more clients: raise its maxclients or lower max_connections": (
        use_up_connections,
        free_connections,
    ),
}


@pytest.mark.parametrize("state", UNWRITABLE)
async def test_what_is_stored_is_served_by_one_that_takes_no_writes(
    proxy: StartProxy,
    client: httpx.AsyncClient,
    impatient: None,
    server: RedisServer,
    operator: Redis,
    state: str,
) -> None:
    """/readyz says why nothing new is stored, and no more when it is again."""
    spoil, repair = UNWRITABLE[state]
    both = await with_and_without_memory(proxy, client, server.url)
    await together(Callers.known, both)
    spoil(operator)
    for why in await together(Callers.troubled, both):
        assert why == f"cache save failed: redis://{HOST}:{server.port}/0 {state}"
    for callers in both:
        assert await callers.ask("known") == "HIT"
        callers.waited_no_longer_than_told()
    repair(operator)
    await together(Callers.recovered, both)
    await settled(both)


@pytest.mark.parametrize("state", UNUSABLE)
async def test_one_that_lets_nobody_in_is_skipped(
    proxy: StartProxy,
    client: httpx.AsyncClient,
    impatient: None,
    server: RedisServer,
    operator: Redis,
    state: str,
) -> None:
    """Until it does: then what was stored is found again, too."""
    spoil, repair = UNUSABLE[state]
    both = await with_and_without_memory(proxy, client, server.url)
    await together(Callers.known, both)
    spoil(operator)
    await together(Callers.troubled, both, by=f" failed: redis://{HOST}:{server.port}/0 {state}")
    for callers in both:
        await callers.without_waiting()
    repair(operator)
    await together(Callers.recovered, both)
    assert await together(Callers.ask, both, prompt="known") == ["HIT", "HIT"]
    await settled(both)


@pytest.mark.parametrize("end", [RedisServer.stop, RedisServer.kill])
async def test_one_that_comes_back_empty_is_filled_again(
    proxy: StartProxy,
    client: httpx.AsyncClient,
    server: RedisServer,
    end: Callable[[RedisServer], None],
) -> None:
    """Stopped or killed: what was stored is lost and missed, also by memory, and stored anew."""
    both = await with_and_without_memory(proxy, client, server.url)
    await together(Callers.known, both)
    await asyncio.to_thread(end, server)
    for why in await together(Callers.troubled, both):
        assert "cannot be reached" in why
    for callers in both:
        await callers.without_waiting()
    await asyncio.to_thread(server.start)
    await together(Callers.recovered, both)
    assert await together(Callers.ask, both, prompt="known") == ["MISS", "MISS"]
    await together(Callers.known, both)
    await settled(both)


async def test_one_that_loads_its_data_is_waited_for_by_nobody(
    proxy: StartProxy, client: httpx.AsyncClient, impatient: None, redis_server: StartServer
) -> None:
    """It has everything when it is done, and so have the proxies."""
    server = redis_server(key_load_delay=2000, loading_process_events_interval_bytes=1024)
    both = await with_and_without_memory(proxy, client, server.url)
    await together(Callers.known, both)
    server.ask("EVAL", "for i = 1, 500 do redis.call('SET', 'other ' .. i, ('x'):rep(99)) end", 0)
    server.ask("SAVE")
    restart = asyncio.create_task(asyncio.to_thread(server.restart))
    reasons = set()
    while not restart.done():
        await together(Callers.crowd, both)
        reasons.update(await together(Callers.trouble, both))
    await restart
    assert any(why.endswith("is loading its data") for why in reasons)
    await together(Callers.recovered, both)
    assert await together(Callers.ask, both, prompt="known") == ["HIT", "HIT"]
    await settled(both)
