"""Listings of Redis find entries by the shortest way, whatever became of the index."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace

import pytest
import pytest_asyncio
from redis import Redis

from cache_backends import Entry, Unsupported, redis_choice, redis_index, redis_listing
from cache_backends.redis import RedisCache
from cache_backends.redis_rows import Names
from cache_backends.shared import EVERYTHING, WIDE, Filter, Narrowing
from tests.cache_backends.conformance import entry_of
from tests.cache_backends.listed_conformance import store
from tests.fakes.clock import FakeClock
from tests.fakes.redis_servers import RedisServer

START_SERVER = Callable[..., RedisServer]
PROMPT = Filter(prompt_digest="0123456789abcdef")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def raw(redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


@pytest.fixture
def names(fresh_name: str) -> Names:
    return Names(fresh_name)


@pytest_asyncio.fixture
async def cache(redis_url: str, fresh_name: str, clock: FakeClock) -> AsyncIterator[RedisCache]:
    opened = RedisCache(redis_url, prefix=fresh_name, timeout=10, clock=clock)
    yield opened
    await opened.aclose()


async def told(
    cache: RedisCache, filter: Filter = EVERYTHING, narrowed: Narrowing = WIDE, limit: int = 3
) -> dict[int, int]:
    """The numbers of the entries in the order of the listing, with their hits."""
    found: dict[int, int] = {}
    cursor = None
    while True:
        page = await cache.page(filter, narrowed=narrowed, cursor=cursor, limit=limit)
        found |= {int(each.prompt): each.hits for each in page.entries}
        if (cursor := page.cursor) is None:
            return found


async def store_prompts(cache: RedisCache, clock: FakeClock) -> list[Entry]:
    """Thirty entries, of which each tenth is of one prompt."""
    digests = (PROMPT.prompt_digest if n % 10 == 0 else f"{n:016x}" for n in range(30))
    return await store(cache, clock, [{"about": {"prompt_digest": each}} for each in digests])


async def hit(cache: RedisCache, entries: list[Entry], *numbers: int) -> None:
    """Each of these so often as its number says."""
    await cache.add_hits({entries[number].key.id: number for number in numbers})


async def test_entries_of_a_prompt_are_looked_up(
    redis_server: START_SERVER, clock: FakeClock
) -> None:
    """Nobody reads those of others, however many there are."""
    server = redis_server()
    cache = RedisCache(server.url, timeout=10, clock=clock)
    await store_prompts(cache, clock)
    assert await told(cache, PROMPT) == {20: 0, 10: 0, 0: 0}
    assert server.ask("INFO", "commandstats")["cmdstat_getrange"]["calls"] == 3
    await cache.aclose()


async def test_a_prompt_of_very_many_entries_is_met_in_their_order(
    cache: RedisCache, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not all of their ids are read for a page."""
    monkeypatch.setattr(redis_choice, "FEW_IDS", 2)
    entries = await store_prompts(cache, clock)
    assert list(await told(cache, PROMPT, limit=1)) == [20, 10, 0]
    await hit(cache, entries, 3, 10, 20)
    assert await told(cache, PROMPT, Narrowing(min_hits=1)) == {20: 20, 10: 10}


@pytest.mark.parametrize("lost", ["prompts", "records", "index", "*"])
async def test_prompts_are_found_again_when_a_part_was_lost(
    cache: RedisCache,
    raw: Redis,
    names: Names,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
    lost: str,
) -> None:
    """At once, unless all was lost; once looked after they are looked up as before."""
    entries = await store_prompts(cache, clock)
    raw.delete(*raw.scan_iter(names.book + lost, count=10_000))
    if lost in ("prompts", "records"):
        assert list(await told(cache, PROMPT)) == [20, 10, 0]
    for _ in range(2 * raw.dbsize() // redis_choice.BATCH_ROWS + 2):
        await cache.totals()
    monkeypatch.setattr(redis_listing, "PAGE_LOOKS", 3)
    page = await cache.page(PROMPT)
    assert [each.id for each in page.entries] == [entries[n].key.id for n in (20, 10, 0)]


async def test_what_is_right_is_left_alone(redis_server: START_SERVER, clock: FakeClock) -> None:
    """To look after it costs no writing."""
    server = redis_server()
    cache = RedisCache(server.url, timeout=10, clock=clock)
    await store_prompts(cache, clock)
    await cache.totals()
    scripts = server.ask("INFO", "commandstats")["cmdstat_eval"]["calls"]
    await cache.totals()
    assert server.ask("INFO", "commandstats")["cmdstat_eval"]["calls"] == scripts == 30
    await cache.aclose()


async def test_what_was_left_in_a_group_is_not_mistaken_for_a_loss(
    cache: RedisCache, raw: Redis, names: Names, clock: FakeClock
) -> None:
    """Entries that went while nobody had a record of them leave no seats behind for ever."""
    gone, entry = await store(cache, clock, [{"about": PROMPT.as_json()} for _ in range(2)])
    await cache.delete(entry.key.id)
    raw.delete(names.records, names.entry(gone.key.id))
    await cache.remove(EVERYTHING, before=5)
    assert raw.zcard(names.prompts) == 1
    await cache.put(entry)
    assert raw.zcard(names.prompts) == 1
    await cache.delete(entry.key.id)
    assert not raw.exists(names.prompts)


async def test_hits_are_told_and_narrow_down(cache: RedisCache, clock: FakeClock) -> None:
    """They add up, and those of ids that are not there are dropped."""
    await cache.add_hits({entry_of("7", clock).key.id: 1})
    entries = await store(cache, clock, [{} for _ in range(8)])
    await hit(cache, entries, 1, 2, 3)
    await hit(cache, entries, 3, 5)
    await cache.add_hits({"0" * 64: 9, "no id": 9})
    await cache.add_hits({})
    assert await told(cache) == {7: 0, 6: 0, 5: 5, 4: 0, 3: 6, 2: 2, 1: 1, 0: 0}
    assert await told(cache, narrowed=Narrowing(min_hits=2), limit=1) == {5: 5, 3: 6, 2: 2}
    assert await told(cache, Filter(ids=(entries[1].key.id,)), Narrowing(min_hits=2)) == {}
    assert len(await told(cache, narrowed=Narrowing(min_hits=0))) == 8


async def test_hits_are_found_by_an_index(redis_server: START_SERVER, clock: FakeClock) -> None:
    """Entries with fewer are not looked at."""
    server = redis_server()
    cache = RedisCache(server.url, timeout=10, clock=clock)
    entries = await store(cache, clock, [{} for _ in range(20)])
    await hit(cache, entries, 5, 6)
    assert await told(cache, narrowed=Narrowing(min_hits=6)) == {6: 6}
    used = server.ask("INFO", "commandstats")
    assert used["cmdstat_getrange"]["calls"] == 1
    assert "cmdstat_zrevrangebyscore" not in used
    await cache.aclose()


async def test_more_hits_than_are_sent_at_once(cache: RedisCache, clock: FakeClock) -> None:
    """And from many at the same time."""
    entries = [entry_of(str(number), clock) for number in range(1500)]
    await cache.put_many(entries)
    ids = [entry.key.id for entry in entries]
    await asyncio.gather(*(cache.add_hits(dict.fromkeys(ids, 2)) for _ in range(3)))
    found = await told(cache, narrowed=Narrowing(min_hits=6), limit=1000)
    assert found == dict.fromkeys(range(1500), 6)


async def test_hits_stay_with_an_entry_that_is_stored_again(
    cache: RedisCache, clock: FakeClock
) -> None:
    """Also when it is about something else now."""
    entries = await store(cache, clock, [{} for _ in range(3)])
    await hit(cache, entries, 1, 2)
    await cache.put(replace(entries[1], tags=("new",), about={}))
    assert await told(cache) == {1: 1, 2: 2, 0: 0}


@pytest.mark.parametrize("way", ["delete", "remove", "clear", "end", "evict", "lose"])
async def test_hits_leave_with_their_entry(
    cache: RedisCache,
    raw: Redis,
    names: Names,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
) -> None:
    """In whatever way it goes; one that comes later begins anew."""
    monkeypatch.setattr(redis_index, "GRACE_S", 0.0)
    entries = await store(cache, clock, [{"retained": 60} for _ in range(3)])
    await hit(cache, entries, 1)
    match way:
        case "delete":
            await cache.delete(entries[1].key.id)
        case "remove":
            await cache.remove(Filter(ids=(entries[1].key.id,)), before=5)
        case "clear":
            await cache.aclear()
        case "end":
            clock.advance(60)
        case "evict":
            raw.delete(names.entry(entries[1].key.id))
        case "lose":
            raw.delete(names.entry(entries[1].key.id), names.index, names.records, names.ends)
    await cache.totals()
    assert not raw.exists(names.hits)
    await cache.put(replace(entries[1], retained_until=None))
    assert (await told(cache, Filter(ids=(entries[1].key.id,)))) == {1: 0}


async def test_the_expired_are_told_from_the_fresh(cache: RedisCache, clock: FakeClock) -> None:
    """One without an end is fresh."""
    await store(cache, clock, [{}, {"expires": 5, "retained": 60}, {"expires": 50}])
    clock.advance(5)
    assert list(await told(cache, narrowed=Narrowing(expired=True))) == [1]
    assert list(await told(cache, narrowed=Narrowing(expired=False))) == [2, 0]


async def test_sizes_narrow_down(cache: RedisCache, clock: FakeClock) -> None:
    """Both ends are included, and are of what a listing tells."""
    await store(cache, clock, [{"about": {"note": "x" * 100 * n}} for n in range(5)])
    sizes = [each.bytes for each in (await cache.page(EVERYTHING)).entries][::-1]
    narrow = Narrowing(min_bytes=sizes[1], max_bytes=sizes[3])
    assert list(await told(cache, narrowed=narrow, limit=1)) == [3, 2, 1]
    assert list(await told(cache, narrowed=replace(narrow, min_bytes=sizes[3]))) == [3]


async def test_who_narrows_down_looks_at_so_many_only(
    cache: RedisCache, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever there is no index for goes from page to page."""
    monkeypatch.setattr(redis_choice, "BATCH_ROWS", 5)
    monkeypatch.setattr(redis_choice, "FEW_IDS", 1)
    monkeypatch.setattr(redis_listing, "PAGE_LOOKS", 10)
    entries = await store(cache, clock, [{} for _ in range(30)])
    await hit(cache, entries, 2, 3)
    for narrowed in (Narrowing(min_hits=2), Narrowing(min_bytes=2**30)):
        page = await cache.page(EVERYTHING, narrowed=narrowed)
        assert page.entries == []
        assert page.cursor is not None
    assert await told(cache, narrowed=Narrowing(min_hits=2)) == {3: 3, 2: 2}


async def test_a_text_is_not_looked_for(cache: RedisCache) -> None:
    """Nor is it passed over: who asked is told where it can be found."""
    with pytest.raises(Unsupported, match="memory and sqlite find texts"):
        await cache.page(EVERYTHING, narrowed=Narrowing(text="rain"))
