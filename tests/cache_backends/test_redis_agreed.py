"""The purge log, facts and leases in Redis: a loss is noticed, and tampering does no harm."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from math import inf, nan

import pytest
import pytest_asyncio
from redis import Redis

from cache_backends import CacheError
from cache_backends.redis import RedisCache
from cache_backends.redis_rows import Names
from cache_backends.shared import EVERYTHING, Filter, Narrowing
from tests.fakes.redis_servers import RedisServer


@pytest.fixture
def raw(redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def names(fresh_name: str) -> Names:
    return Names(fresh_name)


@pytest_asyncio.fixture
async def cache(redis_url: str, fresh_name: str) -> AsyncIterator[RedisCache]:
    opened = RedisCache(redis_url, prefix=fresh_name, timeout=10)
    yield opened
    await opened.aclose()


async def test_a_server_that_lost_everything_has_another_name(
    redis_server: Callable[..., RedisServer],
) -> None:
    """And numbers go on from where they were: an old one is never given again."""
    server = redis_server()
    cache = RedisCache(server.url, timeout=10)
    first = await cache.announce(EVERYTHING)
    before = await cache.purges(0)
    await asyncio.to_thread(server.restart)
    after = await cache.purges(first)
    assert after.store != before.store
    assert after[1:] == (0, ())
    assert await cache.announce(EVERYTHING) > first
    await cache.aclose()


async def test_a_server_with_a_disk_keeps_its_name(
    redis_server: Callable[..., RedisServer],
) -> None:
    """The log, the facts and the entries are there after a restart."""
    server = redis_server(appendonly="yes")
    cache = RedisCache(server.url, timeout=10)
    await cache.announce(Filter(tag="a"))
    await cache.fact("name", "first")
    before = await cache.purges(0)
    await asyncio.to_thread(server.restart)
    assert await cache.purges(0) == before
    assert await cache.fact("name", "second") == "first"
    await cache.aclose()


async def test_a_log_that_was_evicted_is_noticed(
    cache: RedisCache, raw: Redis, names: Names
) -> None:
    """It is one key, gone as a whole, and the next one has another name."""
    number = await cache.announce(EVERYTHING)
    before = await cache.purges(0)
    assert [key for key in raw.keys(names.book + "*") if key != names.log.encode()] == []
    raw.delete(names.log)
    after = await cache.purges(number)
    assert after.store not in ("", before.store)
    assert after.head == 0


async def test_rows_that_were_lost_are_noticed(cache: RedisCache, raw: Redis, names: Names) -> None:
    """What follows names another row as the one before; without any, the head tells."""
    numbers = [await cache.announce(Filter(tag=str(number))) for number in range(3)]
    raw.zremrangebyscore(names.log, numbers[1], numbers[1])
    read = await cache.purges(numbers[0])
    assert [purge.previous for purge in read.purges] == [numbers[1]]


@pytest.mark.parametrize(
    "row",
    [
        b"",
        b"\xff\xfe",
        b"5 0 1.5",
        b"5 0 1.5 {}",
        b"{number} x 1.5 {}",
        b"{number} 0 then {}",
        b"{number} 0 1.5 nothing",
        b"{number} 0 1.5 []",
        b'{number} 0 1.5 "text"',
        b'{number} 0 1.5 {"unknown":"field"}',
        b'{number} 0 1.5 {"tag":7}',
        b'{number} 0 1.5 {"ids":"0"}',
        b'{number} 0 1.5 {"ids":[0]}',
        b'{number} 0 1.5 {"stored_before":"now"}',
    ],
)
async def test_a_row_that_cannot_be_read_covers_everything(
    cache: RedisCache, raw: Redis, names: Names, row: bytes
) -> None:
    """Another version may have written it: too much is fetched again, but nothing wrong is told."""
    last = await cache.announce(Filter(tag="a"))
    raw.zadd(names.log, {row.replace(b"{number}", b"%d" % (last + 1)): last + 1})
    purge = (await cache.purges(last)).purges[0]
    assert (purge.number, purge.filter) == (last + 1, EVERYTHING)
    assert await cache.announce(EVERYTHING) > last + 1


@pytest.mark.parametrize("key", ["index", "records", "log", "facts", "hits", "prompts"])
async def test_a_key_that_holds_something_else_is_said(
    cache: RedisCache, raw: Redis, names: Names, fresh_name: str, key: str
) -> None:
    """It is not deleted: nobody knows whose it is."""
    raw.set(names.book + key, "something else")
    use = {
        "index": lambda: cache.page(EVERYTHING),
        "records": lambda: cache.totals(),
        "log": lambda: cache.purges(0),
        "facts": lambda: cache.fact("name", "value"),
        "hits": lambda: cache.page(EVERYTHING, narrowed=Narrowing(min_hits=1)),
        "prompts": lambda: cache.page(Filter(prompt_digest="0")),
    }[key]
    with pytest.raises(CacheError, match="something else"):
        await use()
    assert raw.get(names.book + key) == b"something else"


async def test_a_lease_ends_in_the_server(cache: RedisCache, raw: Redis, names: Names) -> None:
    """Nobody has to take it away; a name of any length will do."""
    name = "é" * 5000
    assert await cache.claim(name, "me", 60)
    assert 50_000 < raw.pttl(names.lease(name)) <= 60_000
    assert await cache.claim(name, "me", 5)
    assert raw.pttl(names.lease(name)) <= 5000
    await cache.release(name, "me")
    assert not raw.exists(names.lease(name))


async def test_a_fact_can_be_had_where_nothing_can_be_written(
    redis_server: Callable[..., RedisServer],
) -> None:
    """One that is there; a new one cannot be made."""
    server = redis_server()
    cache = RedisCache(server.url, timeout=10)
    await cache.fact("name", "value")
    await cache.announce(EVERYTHING)
    server.ask("REPLICAOF", "127.0.0.1", 1)
    assert await cache.fact("name", "other") == "value"
    assert len((await cache.purges(0)).purges) == 1
    with pytest.raises(CacheError, match="is a replica"):
        await cache.fact("another", "value")
    await cache.aclose()


async def test_a_fact_can_be_changed(cache: RedisCache) -> None:
    """One that was never there too; whoever asks gets the new one."""
    assert await cache.fact("mode", "normal") == "normal"
    await cache.set_fact("mode", "offline")
    await cache.set_fact("another", "é")
    assert await cache.fact("mode", "normal") == "offline"
    assert await cache.fact("another", "") == "é"


async def test_counts_add_up(cache: RedisCache) -> None:
    """Whoever adds, in whatever order; groups are kept apart."""
    amounts = {"hits": 1, "é {}:": 0.1, "usd": -1e-7}
    await asyncio.gather(*(cache.add_counts("a", amounts) for _ in range(20)))
    await cache.add_counts("b", {"hits": 2**40})
    await cache.add_counts("b", {})
    assert await cache.counts("a") == pytest.approx({"hits": 20, "é {}:": 2, "usd": -2e-6})
    assert await cache.counts("b") == {"hits": 2**40}
    assert await cache.counts("c") == {}


async def test_groups_of_counts_can_be_forgotten(cache: RedisCache) -> None:
    """One at a time, also one that nobody added to; a clear leaves them alone."""
    await cache.add_counts("a", {"hits": 1})
    await cache.add_counts("b", {"hits": 1})
    await cache.forget_counts("a")
    await cache.forget_counts("c")
    await cache.aclear()
    assert await cache.counts("a") == {}
    assert await cache.counts("b") == {"hits": 1}


@pytest.mark.parametrize("amount", [inf, -inf, nan])
async def test_what_cannot_be_added_changes_no_count(cache: RedisCache, amount: float) -> None:
    """All are added or none."""
    with pytest.raises(ValueError, match="finite"):
        await cache.add_counts("a", {"before": 1, "hits": amount, "after": 1})
    assert await cache.counts("a") == {}


async def test_counts_that_are_no_numbers_are_said(
    cache: RedisCache, raw: Redis, names: Names
) -> None:
    """Nobody takes them for none."""
    raw.hset(names.counts("a"), "hits", "many")
    with pytest.raises(CacheError, match="something else"):
        await cache.counts("a")
    with pytest.raises(CacheError):
        await cache.add_counts("a", {"hits": 1})
