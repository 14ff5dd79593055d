"""The index in Redis stays right, whatever becomes of the entries and of itself."""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress

import pytest
import pytest_asyncio
from redis import Redis

from cache_backends import (
    CacheError,
    Generation,
    redis_choice,
    redis_index,
    redis_listing,
    redis_upkeep,
)
from cache_backends.redis import RedisCache
from cache_backends.redis_rows import Names
from cache_backends.redis_scripts import DROP
from cache_backends.shared import EVERYTHING, Filter, Narrowing
from tests.cache_backends.conformance import entry_of
from tests.cache_backends.listed_conformance import listing, store
from tests.fakes.clock import FakeClock
from tests.fakes.redis_servers import RedisServer

LONG = Generation("x" * 7000)
START_SERVER = Callable[..., RedisServer]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def raw(redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


@pytest_asyncio.fixture
async def cache(redis_url: str, fresh_name: str, clock: FakeClock) -> AsyncIterator[RedisCache]:
    opened = RedisCache(redis_url, prefix=fresh_name, timeout=10, clock=clock)
    yield opened
    await opened.aclose()


def keys_of(raw: Redis, prefix: str) -> set[str]:
    return {key.removeprefix(prefix) for key in raw.scan_iter(prefix + "*", count=10_000)}


async def test_only_what_is_under_the_prefix_is_touched(
    cache: RedisCache, raw: Redis, fresh_name: str, clock: FakeClock
) -> None:
    """An entry is the prefix and its id; a clear leaves others' keys alone, similar ones too."""
    alien = f"x{fresh_name}"
    raw.set(alien, "theirs")
    entry = entry_of("prompt", clock)
    await cache.put(entry)
    assert entry.key.id in keys_of(raw, fresh_name)
    await cache.aclear()
    assert keys_of(raw, fresh_name) == {f"{{{fresh_name}}}:records"}
    assert raw.getdel(alien) == "theirs"


@pytest.mark.parametrize("prefix", ["a*[b]?\\c:", "{tag}:", "ü:", "x{y"])
async def test_any_prefix_will_do(
    redis_url: str, fresh_name: str, clock: FakeClock, prefix: str
) -> None:
    """Patterns in it mean nothing, also to the looking after."""
    cache = RedisCache(redis_url, prefix=prefix + fresh_name, timeout=10, clock=clock)
    await cache.put(entry_of("prompt", clock))
    assert (await cache.totals()).entries == 1
    assert len(await listing(cache, Filter(tag="eval"))) == 1
    await cache.aclear()
    await cache.aclose()


@pytest.mark.parametrize("prefix", ["", ":", "a{}b"])
def test_a_prefix_that_cannot_be_told_apart_is_refused(prefix: str) -> None:
    """Without one all keys would be ours; a cluster takes `{}` for no tag."""
    with pytest.raises(ValueError, match="prefix must not be empty"):
        RedisCache(prefix=prefix)


async def test_the_server_ends_an_entry_by_itself(
    cache: RedisCache, raw: Redis, fresh_name: str, clock: FakeClock
) -> None:
    """When it is no longer retained, not before; one without an end has none."""
    entry = entry_of("prompt", clock, expires=30, retained=60)
    await cache.put(entry)
    assert 50_000 < raw.pttl(fresh_name + entry.key.id) <= 60_000
    await cache.put(entry_of("prompt", clock))
    assert raw.pttl(fresh_name + entry.key.id) == -1
    await cache.put(entry_of("prompt", clock, retained=-1))
    assert not raw.exists(fresh_name + entry.key.id)
    assert await cache.totals() == (0, 0)


async def test_an_end_of_its_own_comes_before_the_usual_one(
    redis_url: str, raw: Redis, fresh_name: str, clock: FakeClock
) -> None:
    """`ttl` is for entries that bring none, those of LangChain's methods above all."""
    cache = RedisCache(redis_url, prefix=fresh_name, ttl=60, timeout=10, clock=clock)
    own = entry_of("own", clock, expires=600, retained=900)
    await cache.put(own)
    await cache.aupdate("prompt", "llm", [Generation("a")])
    assert await cache.get(own.key) == own
    clock.advance(59)
    assert await cache.alookup("prompt", "llm") == [Generation("a")]
    clock.advance(1)
    assert await cache.alookup("prompt", "llm") is None
    assert [each.id for each in await listing(cache)] == [own.key.id]
    await cache.aclear()
    await cache.aclose()


async def test_what_has_expired_in_the_server_leaves_the_index(
    redis_url: str, raw: Redis, fresh_name: str
) -> None:
    """Also its groups, and its bytes."""
    cache = RedisCache(redis_url, prefix=fresh_name, timeout=10)
    now = FakeClock(time.time())
    entries = [entry_of(str(n), now, retained=0.05, tags=[f"tag {n}"]) for n in range(30)]
    await cache.put_many(entries)
    await asyncio.sleep(0.06)
    assert await cache.totals() == (0, 0)
    assert await listing(cache) == []
    assert keys_of(raw, fresh_name) == {f"{{{fresh_name}}}:records"}
    await cache.aclose()


async def test_stores_take_out_what_ended(
    cache: RedisCache, raw: Redis, fresh_name: str, clock: FakeClock
) -> None:
    """Some with each, so that an index nobody looks at does not grow for ever."""
    await cache.put_many([entry_of(str(number), clock, retained=10) for number in range(25)])
    clock.advance(10)
    for number in range(3):
        await cache.put(entry_of(f"new {number}", clock))
    assert raw.zcard(f"{fresh_name}{{{fresh_name}}}:index") == 3


async def test_what_was_taken_away_leaves_the_index_when_it_is_met(
    cache: RedisCache,
    raw: Redis,
    fresh_name: str,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By a listing, a removal, or the looking after."""
    monkeypatch.setattr(redis_index, "GRACE_S", 0.0)
    entries = await store(cache, clock, [{} for _ in range(3)])
    for entry, meet in zip(
        entries,
        (
            lambda: listing(cache),
            lambda: cache.remove(Filter(tag="eval"), before=0),
            lambda: cache.totals(),
        ),
        strict=True,
    ):
        before = raw.zcard(f"{fresh_name}{{{fresh_name}}}:index")
        raw.delete(fresh_name + entry.key.id)
        await meet()
        assert raw.zcard(f"{fresh_name}{{{fresh_name}}}:index") == before - 1
    assert await cache.totals() == (0, 0)


async def test_what_is_on_its_way_stays_known(
    cache: RedisCache, raw: Redis, fresh_name: str, clock: FakeClock
) -> None:
    """The index learns of an entry before it is there: nobody takes it out at once."""
    entry = entry_of("prompt", clock)
    await cache.put(entry)
    value = raw.execute_command("RENAME", fresh_name + entry.key.id, fresh_name + "away")
    assert await listing(cache) == []
    await cache.totals()
    assert value
    raw.execute_command("RENAME", fresh_name + "away", fresh_name + entry.key.id)
    assert [each.id for each in await listing(cache)] == [entry.key.id]


async def test_what_was_stored_again_stays_known(
    cache: RedisCache, raw: Redis, fresh_name: str, clock: FakeClock
) -> None:
    """Whoever found the one before gone takes out that one's place, not the new one's."""
    names = Names(fresh_name)
    entry = entry_of("prompt", clock)
    await cache.put(entry)
    place = raw.zscore(names.index, entry.key.id)
    await cache.put(entry)
    taken_out = (names.index, names.ends, names.records, names.book, 0, entry.key.id)
    raw.eval(DROP, 3, *taken_out, place)
    assert len(await listing(cache)) == 1
    raw.eval(DROP, 3, *taken_out, raw.zscore(names.index, entry.key.id))
    assert await listing(cache) == []


@pytest.mark.parametrize("lost", ["", "index", "records", "ends", "[0-9a-f]*"])
async def test_what_of_the_index_was_lost_is_made_again(
    cache: RedisCache, raw: Redis, fresh_name: str, clock: FakeClock, lost: str
) -> None:
    """Little by little, from the entries that are there, in the order of their storing."""
    await store(
        cache, clock, [{"tags": ["odd"] if n % 2 else [], "retained": 99} for n in range(30)]
    )
    before = await listing(cache)
    held = await cache.totals()
    book = f"{fresh_name}{{{fresh_name}}}:"
    raw.delete(*raw.scan_iter(f"{book}{lost or '*'}", count=10_000))
    for _ in range(2 * raw.dbsize() // redis_choice.BATCH_ROWS + 2):
        await cache.totals()
    assert await listing(cache) == before
    assert len(await listing(cache, Filter(tag="odd"))) == 15
    assert await cache.totals() == held


@pytest.mark.parametrize("lost", ["index", "records", "[0-9a-f]*", "ends"])
@pytest.mark.parametrize("filter", [EVERYTHING, Filter(tag="odd"), Filter(model="m")])
async def test_a_removal_is_complete_whatever_was_lost(
    cache: RedisCache, raw: Redis, fresh_name: str, clock: FakeClock, lost: str, filter: Filter
) -> None:
    """The server may evict any part of the index, and says nothing of it."""
    entries = await store(cache, clock, [{"tags": ["odd"] if n % 2 else []} for n in range(20)])
    raw.delete(*raw.scan_iter(f"{fresh_name}{{{fresh_name}}}:{lost}", count=10_000), "none")
    covered = [filter.covers(entry) for entry in entries]
    assert await cache.remove(filter, before=5) == sum(covered)
    found = await cache.get_many([entry.key for entry in entries])
    assert [entry is None for entry in found] == covered


@pytest.mark.parametrize("filter", [EVERYTHING, Filter(tag="odd")])
async def test_a_removal_is_complete_when_the_whole_index_was_lost(
    cache: RedisCache, raw: Redis, fresh_name: str, clock: FakeClock, filter: Filter
) -> None:
    """An index without entries fits records without any: that it is new is noticed all the same."""
    entries = await store(cache, clock, [{"tags": ["odd"] if n % 2 else []} for n in range(20)])
    await cache.remove(Filter(tag="none"), before=5)
    raw.delete(*raw.scan_iter(f"{fresh_name}{{{fresh_name}}}:*", count=10_000))
    await cache.put(entries[1])
    covered = [filter.covers(entry) for entry in entries]
    assert await cache.remove(filter, before=5) == sum(covered)
    found = await cache.get_many([entry.key for entry in entries])
    assert [entry is None for entry in found] == covered
    assert len(await listing(cache)) == 20 - sum(covered)


@pytest.mark.parametrize("looked", ["removal", "sweep"])
async def test_all_keys_are_looked_at_once_only(
    redis_server: START_SERVER, clock: FakeClock, looked: str
) -> None:
    """By the first removal or by the looking after; then the index is known to be whole."""
    server = redis_server()
    cache = RedisCache(server.url, timeout=10, clock=clock)
    await store(cache, clock, [{} for _ in range(5)])
    await (cache.totals() if looked == "sweep" else cache.remove(Filter(tag="none"), before=5))
    scans = server.ask("INFO", "commandstats")["cmdstat_scan"]["calls"]
    assert await cache.remove(EVERYTHING, before=5) == 5
    await cache.aclear()
    await store(cache, clock, [{} for _ in range(5)])
    await cache.aclear()
    assert server.ask("INFO", "commandstats")["cmdstat_scan"]["calls"] == scans
    await cache.aclose()


async def test_stores_look_after_the_index(
    cache: RedisCache,
    raw: Redis,
    fresh_name: str,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody needs to count or list for what is gone to be noticed."""
    monkeypatch.setattr(redis_index, "GRACE_S", 0.0)
    monkeypatch.setattr(redis_upkeep, "SWEEP_EVERY", 5)
    gone = await store(cache, clock, [{} for _ in range(20)])
    raw.delete(*(fresh_name + entry.key.id for entry in gone))
    for number in range(5):
        await cache.put(entry_of(f"new {number}", clock))
    assert raw.zcard(f"{fresh_name}{{{fresh_name}}}:index") == 5


@pytest.mark.parametrize("policy", ["volatile-lru", "volatile-ttl", "allkeys-lru"])
async def test_a_full_server_evicts_and_the_index_follows(
    redis_server: START_SERVER, monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    """Stores go on, and what is listed and counted comes to be what is there."""
    monkeypatch.setattr(redis_index, "GRACE_S", 0.0)
    server = redis_server(maxmemory="6mb", maxmemory_policy=policy)
    cache = RedisCache(server.url, timeout=10)
    clock = FakeClock(time.time())
    for number in range(9):
        if number == 6 and policy == "allkeys-lru":
            await asyncio.sleep(1.1)  # the server knows to the second when a key was used
        await cache.put_many(
            [entry_of(f"{number} {n}", clock, LONG, retained=9999) for n in range(100)]
        )
    server.ask("CONFIG", "SET", "maxmemory", "64mb")  # or looking on evicts yet more
    for _ in range(30):
        held = await cache.totals()
    told = [each.id for each in await listing(cache)]
    assert 0 < len(told) < 900
    assert sorted(told) == sorted(ids_in(server))
    assert held.entries == len(told)
    assert held.bytes == sum(each.bytes for each in await listing(cache))
    assert len(await listing(cache, Filter(tag="eval"))) == len(told)
    await cache.aclose()


def ids_in(server: RedisServer) -> list[str]:
    with Redis.from_url(server.url, decode_responses=True) as raw:
        keys = (key.rpartition(":")[2] for key in raw.scan_iter("llm-cache:*", count=10_000))
        return [key for key in keys if len(key) == 64]


async def test_totals_do_not_drift(cache: RedisCache, clock: FakeClock) -> None:
    """After any mixture of storing, replacing, ending and removing they are those of a listing."""
    chance = random.Random(5)
    for _ in range(60):
        clock.advance(1)
        number = chance.randrange(20)
        entry = entry_of(
            str(number),
            clock,
            Generation("x" * chance.randrange(2000)),
            retained=chance.choice([None, 5, 20]),
            tags=chance.sample("abcd", 2),
        )
        match chance.randrange(6):
            case 0:
                await cache.delete(entry.key.id)
            case 1:
                await cache.remove(Filter(tag=chance.choice("abcd")), before=1)
            case _:
                await cache.put_many([entry, entry])
    told = await listing(cache)
    assert await cache.totals() == (len(told), sum(each.bytes for each in told))
    assert told


async def test_a_long_label_is_read_to_its_end(cache: RedisCache, clock: FakeClock) -> None:
    """Facts and tags of any size are listed whole."""
    about = {"model": "m", "note": "é" * 9000}
    await cache.put(entry_of("☂" * 600, clock, about=about, tags=["t" * 3000, "u"]))
    (told,) = (await cache.page(Filter(tag="t" * 3000, model="m"))).entries
    assert told.about == about
    assert told.tags == ("t" * 3000, "u")
    assert told.prompt == "☂" * 500


async def test_a_page_looks_at_so_many_entries_only(
    cache: RedisCache, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be empty then, and leads on all the same."""
    monkeypatch.setattr(redis_choice, "BATCH_ROWS", 7)
    monkeypatch.setattr(redis_listing, "PAGE_LOOKS", 20)
    await store(cache, clock, [{"about": {"provider": "a" if n < 2 else "b"}} for n in range(60)])
    page = await cache.page(Filter(provider="a"))
    assert page.entries == []
    assert page.cursor is not None
    assert [each.prompt for each in await listing(cache, Filter(provider="a"))] == ["1", "0"]


async def test_neither_a_replica_nor_a_lost_lock_stops_a_listing(
    redis_server: START_SERVER, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be taken out of the index is left in it."""
    monkeypatch.setattr(redis_index, "GRACE_S", 0.0)
    server = redis_server()
    cache = RedisCache(server.url, timeout=10, clock=clock)
    first, gone, broken = await store(cache, clock, [{} for _ in range(3)])
    server.ask("DEL", f"llm-cache:{gone.key.id}")
    server.ask("SET", f"llm-cache:{broken.key.id}", "nothing of ours")
    server.ask("REPLICAOF", "127.0.0.1", 1)
    assert [each.id for each in await listing(cache)] == [first.key.id]
    assert (await cache.totals()).entries == 3
    assert await cache.get_many([broken.key, first.key]) == [None, first]
    with pytest.raises(CacheError, match="is a replica"):
        await cache.put(first)
    await cache.aclose()


async def test_the_commands_that_are_needed_are_those_the_docstring_names(
    redis_server: START_SERVER, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user with no right to others, nor to other keys, can do everything."""
    monkeypatch.setattr(redis_index, "GRACE_S", 0.0)
    assert RedisCache.__doc__ is not None
    (named,) = re.findall(r"under the prefix: ([A-Z, \n]+);", RedisCache.__doc__)
    commands = re.findall("[A-Z]+", named)
    server = redis_server()
    rights = ["~llm-cache:*", "-@all", *(f"+{command}" for command in commands)]
    server.ask("ACL", "SETUSER", "proxy", "on", ">secret", *rights)
    cache = RedisCache(server.url.replace("//", "//proxy:secret@"), timeout=10, clock=clock)
    await use_everything(cache, clock)
    await cache.aclose()
    used = server.ask("INFO", "commandstats")
    for command in commands:
        assert f"cmdstat_{command.lower()}" in used
    for never in ("keys", "flushdb", "flushall"):
        assert f"cmdstat_{never}" not in used


async def use_everything(cache: RedisCache, clock: FakeClock) -> None:
    entries = await store(cache, clock, [{} for _ in range(5)])
    await cache.put(entry_of("ends", clock, retained=1))
    await cache.put(entry_of("ended", clock, retained=-1))
    await cache.get(entries[0].key)
    await cache.fact("name", "value")
    await cache.page(Filter(model="m", tag="eval"))
    await cache.page(Filter(ids=(entries[0].key.id,)))
    await cache.page(Filter(prompt_digest="none"), narrowed=Narrowing(min_hits=1))
    await cache.by_ids([entries[0].key.id])
    await cache.add_hits({entries[0].key.id: 1})
    await cache.add_counts("group", {"name": 0.5})
    await cache.counts("group")
    await cache.forget_counts("group")
    await cache.set_fact("name", "another")
    await cache.delete(entries[0].key.id)
    await cache.announce(EVERYTHING)
    await cache.forget(await cache.announce(EVERYTHING))
    await cache.purges(0)
    await cache.claim("name", "me", 5)
    await cache.claim("name", "me", 5)
    await cache.release("name", "me")
    clock.advance(2)
    await cache.totals()
    await cache.remove(Filter(provider="none"), before=5)
    await cache.aclear()
    with suppress(CacheError):
        await cache.get(entries[0].key)
