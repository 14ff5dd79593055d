"""Connections to Redis when things go wrong: an error in time, no wrong answer, and back again."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
import pytest_asyncio
from redis import Redis

from cache_backends import CacheError, Entry, Generation, Key
from cache_backends.redis import RedisCache
from cache_backends.shared import EVERYTHING
from tests.cache_backends.conformance import entry_of
from tests.fakes.clock import FakeClock
from tests.fakes.fault_proxy import FaultProxy
from tests.fakes.redis_servers import RedisServer
from tests.fakes.servers import wait_until

StartServer = Callable[..., RedisServer]
CLOCK = FakeClock()
ENTRY = entry_of("prompt", CLOCK)


@pytest.fixture
def faults(redis_url: str, fault_proxy: Callable[[str], FaultProxy]) -> FaultProxy:
    return fault_proxy(redis_url)


@pytest_asyncio.fixture
async def cache(faults: FaultProxy, fresh_name: str) -> AsyncIterator[RedisCache]:
    opened = RedisCache(faults.url, prefix=fresh_name, clock=CLOCK)
    yield opened
    await opened.aclose()


@pytest.fixture
def raw(redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(redis_url) as client:
        yield client


BREAK: dict[str, Callable[[FaultProxy], None]] = {
    "refuse": FaultProxy.refuse,
    "hang": FaultProxy.hang,
    "reset": FaultProxy.reset,
    "reset at once": lambda faults: faults.reset(after=0),
    "garbage": FaultProxy.garbage,
    "an error as garbage": lambda faults: faults.garbage(b"-ERR prompt secret\r\n"),
    "a length as garbage": lambda faults: faults.garbage(b"$99999\r\n"),
    "no length": lambda faults: faults.garbage(b"$x\r\n"),
    "lists without end": lambda faults: faults.garbage(b"*1\r\n"),
    "too late": lambda faults: faults.slow(0.6),
}


@pytest.mark.parametrize("fault", BREAK)
async def test_a_fault_is_a_cache_error_and_goes_by(
    cache: RedisCache, faults: FaultProxy, fault: str
) -> None:
    """Reading and writing say so in time; once it is over both work again, by themselves."""
    await cache.put(ENTRY)
    BREAK[fault](faults)
    for _ in range(2):
        for use in (cache.get(ENTRY.key), cache.put(ENTRY), cache.purges(0)):
            with pytest.raises(CacheError) as told:
                await asyncio.wait_for(use, 5)
            assert "secret" not in str(told.value)
    faults.pass_on()
    assert await cache.get(ENTRY.key) == ENTRY
    await cache.put(ENTRY)


async def test_who_was_cut_off_in_the_middle_learns_of_it(
    cache: RedisCache, faults: FaultProxy
) -> None:
    """Half of a reply is no reply."""
    long = entry_of("long", CLOCK, Generation("x" * 200_000))
    await cache.put(long)
    faults.reset(after=100_000)
    with pytest.raises(CacheError, match="cannot be reached"):
        await cache.get(long.key)


async def test_connections_that_died_while_idle_are_noticed(
    cache: RedisCache, faults: FaultProxy
) -> None:
    """Closed by the server or a network, they are made anew without an error."""
    await cache.put(ENTRY)
    await asyncio.to_thread(faults.refuse)
    faults.pass_on()
    assert await cache.get(ENTRY.key) == ENTRY


async def test_a_storm_of_cancellations_mixes_no_answers_up(
    cache: RedisCache, faults: FaultProxy
) -> None:
    """Each gets its own answer or none, and afterwards all connections serve again."""
    entries = [entry_of(str(number), CLOCK, Generation(f"{number} " * 99)) for number in range(50)]
    await cache.put_many(entries)
    faults.slow(0.003, piece=700)
    chance = random.Random(3)

    async def ask(entry: Entry) -> Entry | None:
        with suppress(TimeoutError, CacheError):
            async with asyncio.timeout(chance.random() * 0.02):
                found = await cache.get(entry.key)
                assert found == entry
                return found
        return None

    rounds = [chance.choices(entries, k=20) for _ in range(100)]
    answers = [await asyncio.gather(*map(ask, some)) for some in rounds]
    got = sum(answer is not None for some in answers for answer in some)
    assert 100 < got < 1900
    faults.pass_on()
    assert [await patiently(cache, entry) for entry in entries] == entries


async def patiently(cache: RedisCache, entry: Entry) -> Entry | None:
    """A busy machine may take longer than the cache waits: then it is asked again."""
    for _ in range(20):
        with suppress(CacheError):
            return await cache.get(entry.key)
    return None


async def test_at_most_so_many_connections_are_used(faults: FaultProxy) -> None:
    """The others wait for one."""
    cache = RedisCache(faults.url, max_connections=3, timeout=5)
    await asyncio.gather(*(cache.get(ENTRY.key) for _ in range(50)))
    assert faults.accepted == 3
    await cache.aclose()


async def test_who_waits_too_long_for_a_connection_is_told(
    faults: FaultProxy, fresh_name: str
) -> None:
    """As the one who has it may get reply after reply, each of them in time."""
    cache = RedisCache(faults.url, prefix=fresh_name, max_connections=1, timeout=0.3, clock=CLOCK)
    entries = [entry_of(str(number), CLOCK, Generation("x" * 1000)) for number in range(10)]
    await cache.put_many(entries)
    faults.slow(0.1, piece=1000)
    busy = asyncio.create_task(cache.get_many([entry.key for entry in entries]))
    await asyncio.sleep(0)
    with pytest.raises(CacheError, match="has no connection left"):
        await cache.get(ENTRY.key)
    assert await busy == entries
    await cache.aclose()


async def test_a_server_may_come_later(redis_server: StartServer) -> None:
    """The cache is made at once, and works as soon as the server does."""
    server = redis_server()
    server.stop()
    cache = RedisCache(server.url, timeout=5, clock=CLOCK)
    with pytest.raises(CacheError, match=f"redis://127.0.0.1:{server.port}/0 cannot be reached"):
        await cache.get(ENTRY.key)
    server.start()
    await cache.put(ENTRY)
    assert await cache.get(ENTRY.key) == ENTRY
    await cache.aclose()


async def test_a_server_that_was_killed_is_found_again(redis_server: StartServer) -> None:
    """By itself, on the first question after it is back."""
    server = redis_server(appendonly="yes", appendfsync="always")
    cache = RedisCache(server.url, timeout=5, clock=CLOCK)
    await asyncio.gather(*(cache.put(ENTRY) for _ in range(10)))
    await asyncio.to_thread(server.kill)
    with pytest.raises(CacheError, match="cannot be reached"):
        await cache.put(ENTRY)
    server.start()
    assert await cache.get(ENTRY.key) == ENTRY
    await cache.aclose()


async def test_a_server_without_memory_takes_no_entries_but_gives_them(
    redis_server: StartServer,
) -> None:
    """Until some are removed, which goes on working."""
    server = redis_server(maxmemory="4mb", maxmemory_policy="noeviction")
    cache = RedisCache(server.url, timeout=5, clock=CLOCK)
    await cache.put(ENTRY)
    with pytest.raises(CacheError, match="is out of memory"):
        await fill(cache)
    assert await cache.get(ENTRY.key) == ENTRY
    assert (await cache.totals()).entries > 1
    assert len((await cache.page(EVERYTHING)).entries) > 1
    await cache.aclear()
    await cache.put(ENTRY)
    assert await cache.totals() == (1, (await cache.page(EVERYTHING)).entries[0].bytes)
    await cache.aclose()


async def fill(cache: RedisCache) -> None:
    for number in range(100):
        await cache.put(entry_of(str(number), CLOCK, Generation("x" * 100_000)))


async def test_a_replica_can_be_read(redis_server: StartServer) -> None:
    """Writing to it is said to be impossible."""
    primary = redis_server(repl_diskless_sync_delay=0)
    replica = redis_server(replicaof=f"127.0.0.1 {primary.port}")
    wait_until(lambda: replica.ask("INFO", "replication")["master_link_status"] == "up", "no link")
    writer = RedisCache(primary.url, timeout=5, clock=CLOCK)
    reader = RedisCache(replica.url, timeout=5, clock=CLOCK)
    await writer.put(ENTRY)
    primary.ask("WAIT", 1, 5000)
    assert await reader.get(ENTRY.key) == ENTRY
    with pytest.raises(CacheError, match="is a replica, which takes no writes"):
        await reader.put(ENTRY)
    await writer.aclose()
    await reader.aclose()


async def test_a_server_that_loads_its_data_says_so(redis_server: StartServer) -> None:
    """And serves when it is done."""
    server = redis_server(
        appendonly="yes", key_load_delay=200, loading_process_events_interval_bytes=1024
    )
    cache = RedisCache(server.url, timeout=5, clock=CLOCK)
    await cache.put_many([entry_of(str(number), CLOCK) for number in range(300)])
    starting = asyncio.create_task(asyncio.to_thread(server.restart))
    told = set()
    while not starting.done():
        try:
            await cache.get(ENTRY.key)
        except CacheError as error:
            told.add(str(error).rpartition("/0 ")[2])
        await asyncio.sleep(0.01)
    await starting
    assert "is loading its data" in told
    assert (await cache.totals()).entries == 300
    await cache.aclose()


@pytest.mark.parametrize("login", ["", ":wrong-secret@", "nobody:wrong-secret@"])
async def test_a_wrong_password_is_said_but_not_told(redis_server: StartServer, login: str) -> None:
    """Neither the one that was sent nor the one that is right."""
    server = redis_server(password="right-secret")
    cache = RedisCache(f"redis://{login}127.0.0.1:{server.port}/0", timeout=5)
    with pytest.raises(CacheError, match="does not accept the user or password") as told:
        await cache.get(ENTRY.key)
    assert "secret" not in f"{told.value}{cache!r}"
    await cache.aclose()
    right = RedisCache(server.url, timeout=5, clock=CLOCK)
    await right.put(ENTRY)
    assert "secret" not in repr(right)
    await right.aclose()


async def test_a_user_without_rights_is_said(redis_server: StartServer) -> None:
    """The message names no key."""
    server = redis_server()
    server.ask("ACL", "SETUSER", "reader", "on", ">pw", "~other:*", "+get")
    cache = RedisCache(server.url.replace("//", "//reader:pw@"), timeout=5)
    with pytest.raises(CacheError, match="does not let this user run all commands") as told:
        await cache.get(ENTRY.key)
    assert ENTRY.key.id not in str(told.value)
    await cache.aclose()


async def test_tls_is_checked(redis_server: StartServer) -> None:
    """With its authority a server is trusted, without it is not."""
    server = redis_server(tls=True)
    assert server.url.startswith("rediss://")
    cache = RedisCache(server.url, timeout=5, clock=CLOCK)
    await cache.put(ENTRY)
    assert await cache.get(ENTRY.key) == ENTRY
    await cache.aclose()
    distrustful = RedisCache(server.url.partition("?")[0], timeout=5)
    with pytest.raises(CacheError, match="cannot be verified: give ssl_ca_certs="):
        await distrustful.get(ENTRY.key)
    await distrustful.aclose()


async def test_connections_close_with_the_cache(cache: RedisCache, faults: FaultProxy) -> None:
    """Those of the sync methods too; afterwards every call says so, and closing again is fine."""
    await cache.get(ENTRY.key)
    cache.lookup("prompt", "llm")
    assert faults.open == 2
    await cache.aclose()
    await asyncio.to_thread(wait_until, lambda: faults.open == 0, "still open")
    with pytest.raises(CacheError, match="is closed"):
        await cache.get(ENTRY.key)
    with pytest.raises(CacheError, match="is closed"):
        cache.update("prompt", "llm", [Generation("a")])
    await cache.aclose()
    cache.close()


def test_connections_close_with_their_loop(
    redis_url: str, fresh_name: str, fault_proxy: Callable[[str], FaultProxy]
) -> None:
    """A cache belongs to no loop: they come and go, one after the other and at once."""
    faults = fault_proxy(redis_url)
    cache = RedisCache(faults.url, prefix=fresh_name, timeout=10)

    async def work(prompt: str) -> None:
        await cache.aupdate(prompt, "llm", [Generation(prompt)])
        assert await cache.alookup(prompt, "llm") == [Generation(prompt)]

    threads = [threading.Thread(target=lambda p=p: asyncio.run(work(p))) for p in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    asyncio.run(work("e"))
    wait_until(lambda: faults.open == 0, "still open")
    assert [cache.lookup(p, "llm") for p in "abcde"] == [[Generation(p)] for p in "abcde"]
    cache.clear()
    cache.close()
    wait_until(lambda: faults.open == 0, "still open")


async def test_a_dropped_cache_leaves_nothing_behind(faults: FaultProxy, fresh_name: str) -> None:
    """Neither connections nor a thread, if somebody forgets to close it."""
    before = set(threading.enumerate())
    cache = RedisCache(faults.url, prefix=fresh_name, timeout=10)
    await cache.alookup("prompt", "llm")
    cache.lookup("prompt", "llm")
    (ours,) = (thread for thread in set(threading.enumerate()) - before if "sync" in thread.name)
    del cache
    gc.collect()
    await asyncio.to_thread(ours.join, 10)
    assert not ours.is_alive()
    await asyncio.to_thread(wait_until, lambda: faults.open == 0, "still open")


async def test_a_lookup_does_not_wait_longer_than_told(
    cache: RedisCache, faults: FaultProxy
) -> None:
    """A quarter of a second, unless another time is given."""
    await cache.get(ENTRY.key)
    faults.hang()
    began = time.monotonic()
    with pytest.raises(CacheError, match="did not answer in time"):
        await cache.get(ENTRY.key)
    assert time.monotonic() - began >= 0.2
    assert faults.accepted == 1


@pytest.mark.parametrize("options", [{"timeout": 0}, {"ttl": -1}, {"max_connections": 0}])
def test_settings_without_sense_are_refused(options: dict[str, Any]) -> None:
    """A mistake in the settings is told at once."""
    with pytest.raises(ValueError, match="must be greater than 0"):
        RedisCache(**options)


async def test_what_is_no_id_is_not_asked_for(redis_url: str) -> None:
    """It cannot be the name of any other key."""
    cache = RedisCache(redis_url, timeout=5)
    assert await cache.get_many([Key("{llm-cache}:log", "prompt", "llm")]) == [None]
    await cache.aclose()
