"""A cluster that changes, and a server that sentinels replace: both are found again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

import pytest
import pytest_asyncio
from redis.crc import key_slot

from cache_backends import CacheError, Entry, Generation
from cache_backends.redis import RedisCache
from cache_backends.redis_rows import Names
from cache_backends.shared import EVERYTHING, Filter
from tests.cache_backends.conformance import entry_of
from tests.cache_backends.listed_conformance import listing
from tests.cache_backends.shared_conformance import NOBODY_KNEW_A_LATER_ONE
from tests.fakes.clock import FakeClock
from tests.fakes.redis_servers import RedisCluster, RedisSentinel, RedisServer

CLOCK = FakeClock()
ENTRIES = [entry_of(str(number), CLOCK, Generation(f"{number} " * 50)) for number in range(60)]
KEYS = [entry.key for entry in ENTRIES]


@pytest.fixture
def cluster(redis_cluster: Callable[[], RedisCluster]) -> RedisCluster:
    return redis_cluster()


@pytest_asyncio.fixture
async def cache(cluster: RedisCluster) -> AsyncIterator[RedisCache]:
    opened = RedisCache(in_cluster(cluster.url), timeout=5, clock=CLOCK)
    yield opened
    await opened.aclose()


@pytest_asyncio.fixture
async def shared(redis_cluster_url: str, fresh_name: str) -> AsyncIterator[RedisCache]:
    """In a cluster that no test breaks."""
    opened = RedisCache(in_cluster(redis_cluster_url), prefix=fresh_name, timeout=5, clock=CLOCK)
    yield opened
    await opened.aclear()
    await opened.aclose()


def in_cluster(url: str) -> str:
    return url.replace("redis://", "redis+cluster://")


def owner_of(cluster: RedisCluster, entry: Entry) -> tuple[RedisServer, int]:
    """The node that has the entry, and the slot it is in."""
    slot = key_slot(f"llm-cache:{entry.key.id}".encode())
    held = [node for node in cluster.nodes if node.ask("CLUSTER", "COUNTKEYSINSLOT", slot)]
    return held[0], slot


async def test_entries_are_spread_over_the_nodes(shared: RedisCache, fresh_name: str) -> None:
    """And listed, counted and removed as one."""
    await shared.put_many(ENTRIES)
    slots = [key_slot(f"{fresh_name}{key.id}".encode()) for key in KEYS]
    assert {slot * 3 // 16384 for slot in slots} == {0, 1, 2}
    assert len(await listing(shared)) == (await shared.totals()).entries == len(ENTRIES)
    assert await shared.remove(Filter(tag="eval"), before=NOBODY_KNEW_A_LATER_ONE) == len(ENTRIES)


async def test_who_stores_the_same_at_once_leaves_an_index_that_fits(
    shared: RedisCache, fresh_name: str, redis_cluster_url: str
) -> None:
    """Entry and index are at two nodes: the one may take them in another order than the other."""
    other = RedisCache(in_cluster(redis_cluster_url), prefix=fresh_name, timeout=5, clock=CLOCK)
    for _ in range(20):
        stored = [(cache, tag) for tag in "abcd" for cache in (shared, other)]
        await asyncio.gather(
            *(cache.put(entry_of("0", CLOCK, tags=[tag])) for cache, tag in stored)
        )
        found = await shared.get(KEYS[0])
        assert found is not None
        for tag in "abcd":
            told = await listing(shared, Filter(tag=tag))
            assert len(told) == (tag in found.tags)
    assert (await other.totals()).entries == 1
    await other.aclose()


async def test_a_slot_that_moved_is_followed(cluster: RedisCluster, cache: RedisCache) -> None:
    """A node says who has it now; nobody hears of an error."""
    await cache.put_many(ENTRIES)
    entry = ENTRIES[7]
    owner, slot = owner_of(cluster, entry)
    await cache.delete(entry.key.id)
    other = next(node for node in cluster.nodes if node is not owner)
    name = other.ask("CLUSTER", "MYID")
    for node in (other, owner, *cluster.nodes):
        node.ask("CLUSTER", "SETSLOT", slot, "NODE", name)
    await cache.put(entry)
    assert await cache.get_many(KEYS) == ENTRIES
    assert owner_of(cluster, entry)[0] is other


async def test_a_slot_on_the_move_is_asked_for_where_it_goes(
    cluster: RedisCluster, cache: RedisCache
) -> None:
    """What is not there any more is at the other node already."""
    await cache.put_many(ENTRIES)
    entry = ENTRIES[7]
    owner, slot = owner_of(cluster, entry)
    other = next(node for node in cluster.nodes if node is not owner)
    other.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", owner.ask("CLUSTER", "MYID"))
    owner.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", other.ask("CLUSTER", "MYID"))
    assert await cache.get_many(KEYS) == ENTRIES
    await cache.delete(entry.key.id)
    assert await cache.get(entry.key) is None
    await cache.put(entry)
    assert await cache.get_many(KEYS) == ENTRIES


async def test_a_node_that_was_down_is_used_again(cluster: RedisCluster, cache: RedisCache) -> None:
    """Also the one that the URL names; meanwhile there are errors, none of them wrong answers."""
    await cache.put_many(ENTRIES)
    cluster.nodes[0].kill()
    for key, entry in zip(KEYS, ENTRIES, strict=True):
        with suppress(CacheError):
            assert await cache.get(key) == entry
    with pytest.raises(CacheError):
        await cache.put_many(ENTRIES)
    cluster.nodes[0].start()
    await until_it_works(cache)


async def test_a_removal_is_complete_when_the_index_lost_its_node(
    cluster: RedisCluster, cache: RedisCache
) -> None:
    """It came back empty: the entries of the other nodes are found all the same."""
    await cache.put_many(ENTRIES)
    await cache.remove(Filter(tag="none"), before=NOBODY_KNEW_A_LATER_ONE)
    slot = key_slot(Names("llm-cache:").index.encode())
    (node,) = (each for each in cluster.nodes if each.ask("CLUSTER", "COUNTKEYSINSLOT", slot))
    node.ask("FLUSHALL")
    left = sum(entry is not None for entry in await cache.get_many(KEYS))
    assert 0 < left < len(ENTRIES)
    assert await cache.remove(Filter(tag="eval"), before=NOBODY_KNEW_A_LATER_ONE) == left
    assert await cache.get_many(KEYS) == [None] * len(KEYS)


async def test_any_of_the_named_nodes_will_do(redis_cluster_url: str, fresh_name: str) -> None:
    """The first may be one that is gone for good."""
    nowhere = RedisServer()
    hosts = redis_cluster_url.replace("redis://", f"redis+cluster://127.0.0.1:{nowhere.port},")
    nowhere.close()
    cache = RedisCache(hosts, prefix=fresh_name, timeout=5, clock=CLOCK)
    await until_it_works(cache)
    await cache.aclose()


async def test_a_node_asked_alone_names_the_way_out(redis_cluster_url: str) -> None:
    """A URL without `+cluster` is a mistake that is easily made."""
    cache = RedisCache(redis_cluster_url, timeout=5, clock=CLOCK)
    with pytest.raises(CacheError, match=r"use redis\+cluster://"):
        await cache.get_many(KEYS)
    await cache.aclose()


async def test_a_server_that_is_no_cluster_is_said(redis_url: str) -> None:
    """As is the other mistake."""
    cache = RedisCache(in_cluster(redis_url), timeout=5, clock=CLOCK)
    with pytest.raises(CacheError, match="is no cluster: use redis://"):
        await cache.get(KEYS[0])
    await cache.aclose()


async def test_cancellations_mix_no_answers_up(shared: RedisCache) -> None:
    """Whoever leaves takes the connections to all nodes with him, and they are made anew."""
    await shared.put_many(ENTRIES)
    chance = random.Random(3)

    async def ask() -> bool:
        some = chance.sample(range(len(ENTRIES)), 6)
        with suppress(TimeoutError):
            async with asyncio.timeout(chance.random() * 0.01):
                found = await shared.get_many([KEYS[each] for each in some])
                assert found == [ENTRIES[each] for each in some]
                return True
        return False

    got = [sum(await asyncio.gather(*(ask() for _ in range(10)))) for _ in range(60)]
    assert 0 < sum(got) < 600
    assert await shared.get_many(KEYS) == ENTRIES


async def test_sentinels_name_the_server_that_took_over(
    redis_sentinel: Callable[[], RedisSentinel],
) -> None:
    """The cache goes on there, without a restart."""
    watched = redis_sentinel()
    cache = RedisCache(watched.url, timeout=5, clock=CLOCK)
    await cache.put(ENTRIES[0])
    await cache.announce(EVERYTHING)
    log = await cache.purges(0)
    watched.primary.ask("WAIT", 1, 5000)
    watched.primary.kill()
    with pytest.raises(CacheError):
        await cache.put(ENTRIES[1])
    await until_it_works(cache)
    assert await cache.get(ENTRIES[0].key) == ENTRIES[0]
    assert await cache.purges(0) == log
    await cache.aclose()


async def until_it_works(cache: RedisCache) -> None:
    async with asyncio.timeout(20):
        while True:
            with suppress(CacheError):
                await cache.put_many(ENTRIES)
                break
            await asyncio.sleep(0.05)
    assert await cache.get_many(KEYS) == ENTRIES
