"""Managing entries in Postgres: what is counted, narrowed down, pinned, and brought up to date."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import pytest
import pytest_asyncio

from cache_backends import (
    CacheError,
    Entry,
    Filter,
    Generation,
    Key,
    PostgresCache,
    postgres_schema,
)
from cache_backends.base import Unsupported
from cache_backends.postgres_session import Database
from cache_backends.shared import AFTER_ALL, EVERYTHING, ListedCache, Narrowing
from tests.cache_backends.conformance import entry_of
from tests.cache_backends.evicting_conformance import SMALL_BYTES, EvictingConformance
from tests.fakes.clock import FakeClock
from tests.fakes.postgres_store import PostgresStore


@pytest_asyncio.fixture
async def store(postgres_url: str, fresh_name: str) -> AsyncIterator[PostgresStore]:
    made = PostgresStore(postgres_url, fresh_name)
    yield made
    await made.aclose()


@pytest.fixture
def clock(store: PostgresStore) -> FakeClock:
    return store.clock


@pytest.fixture
def cache(store: PostgresStore) -> PostgresCache:
    return store.open()


class TestPostgresEvicting(EvictingConformance):
    @pytest.fixture
    def clock(self, store: PostgresStore) -> FakeClock:
        return store.clock

    @pytest.fixture
    def small(self, store: PostgresStore) -> PostgresCache:
        return store.open(max_bytes=SMALL_BYTES, keep_house_every=0)

    async def make_room(self, cache: ListedCache) -> None:
        async with asyncio.timeout(10):
            while (await cache.totals()).bytes > SMALL_BYTES:
                await cache.get(Key.of("nobody stored this", "llm"))


async def hits_of(cache: PostgresCache) -> dict[str, int]:
    """Of each entry, by its prompt."""
    return {each.prompt: each.hits for each in (await cache.page(EVERYTHING)).entries}


async def test_hits_leave_with_their_entries(store: PostgresStore, clock: FakeClock) -> None:
    """However these leave: deleted, removed, ended, pushed out, or by another program."""
    cache = store.open(max_bytes=40_000, keep_house_every=0)
    small = [entry_of(str(number), clock) for number in range(4)]
    ended = entry_of("ended", clock, retained=5)
    await cache.put_many([*small, ended])
    await cache.add_hits({entry.key.id: 3 for entry in (*small, ended)})
    assert await store.run("SELECT count(*) FROM {schema}.hits") == [(5,)]
    await cache.delete(small[0].key.id)
    await cache.remove(Filter(ids=(small[1].key.id,)), before=AFTER_ALL)
    await store.run("DELETE FROM {schema}.entries WHERE prompt = '2'")
    clock.advance(10)
    async with asyncio.timeout(10):
        while await store.run("SELECT 1 FROM {schema}.hits"):
            await cache.put(entry_of(str(clock()), clock, Generation("x" * 8000)))
            clock.advance(1)
    assert cache.evictions > 0


async def test_hits_are_counted_from_all_sides_at_once(
    store: PostgresStore, clock: FakeClock
) -> None:
    """Thousands in any order, while others store, count and remove the same: nobody is stuck."""
    entries = [entry_of(str(number), clock) for number in range(3000)]
    caches = [store.open() for _ in range(4)]
    await caches[0].put_many(entries)
    ids = [entry.key.id for entry in entries]
    gone = Filter(ids=tuple(ids[1000:]))
    await asyncio.gather(
        *(cache.add_hits(dict.fromkeys(ids[::way], 1)) for cache in caches for way in (1, -1)),
        *(cache.put_many(entries[:1000][::way]) for cache in caches for way in (1, -1)),
        caches[1].remove(gone, before=AFTER_ALL),
    )
    counted = await store.run("SELECT hits, count(*) FROM {schema}.hits GROUP BY hits")
    assert counted == [(8, 1000)]


async def test_what_has_ended_is_not_counted_for(store: PostgresStore, clock: FakeClock) -> None:
    """Nothing is kept of an entry that is gone to whoever asks, although its row is there."""
    ended = entry_of("prompt", clock, retained=10)
    first = store.open()
    await first.put(ended)
    await first.aclose()  # nor does it keep house any more
    clock.advance(10)
    await store.open().add_hits({ended.key.id: 1, "no id": 1, "0" * 64: 1})
    assert await store.run("SELECT count(*) FROM {schema}.entries") == [(1,)]
    assert await store.run("SELECT count(*) FROM {schema}.hits") == [(0,)]


async def test_what_is_being_deleted_is_not_counted_for(
    store: PostgresStore, cache: PostgresCache, clock: FakeClock
) -> None:
    """Nobody waits for it, and no hits are left when it is gone; the others have theirs."""
    gone, other = entry_of("gone", clock), entry_of("other", clock)
    await cache.put_many([gone, other])
    session = await Database(store.url, store.schema).connect()
    async with session.transaction():
        await session.fetch_once("DELETE FROM {schema}.entries WHERE prompt = 'gone'")
        await cache.add_hits({gone.key.id: 1, other.key.id: 1})
    await session.close()
    await cache.put(gone)
    assert await hits_of(cache) == {"gone": 0, "other": 1}


async def test_more_hits_than_one_statement_takes(cache: PostgresCache, clock: FakeClock) -> None:
    """Of twenty-five thousand ids, most of them gone, those that are there are counted."""
    entries = [entry_of(prompt, clock) for prompt in "ab"]
    await cache.put_many(entries)
    gone = {f"{number:064x}": 1 for number in range(25_000)}
    await cache.add_hits({entries[0].key.id: 1, **gone, entries[1].key.id: 2})
    assert await hits_of(cache) == {"a": 1, "b": 2}


async def test_sums_are_added_to_from_all_sides_at_once(store: PostgresStore) -> None:
    """In any order, and while another group is forgotten: every amount counts once."""
    caches = [store.open() for _ in range(4)]
    names = [f"{number} " + "é\x00," * 100 for number in range(50)]
    asked = [
        each.add_counts("group", dict.fromkeys(names[::way], 0.5))
        for each in caches
        for way in (1, -1) * 5
    ]
    await asyncio.gather(*asked, caches[0].forget_counts("other"))
    assert await caches[1].counts("group") == dict.fromkeys(names, 20.0)


async def test_a_few_of_many_are_found_in_pages_of_bounded_work(
    store: PostgresStore, cache: PostgresCache, clock: FakeClock
) -> None:
    """Where no index knows them, a page may be empty and still lead on to the next."""
    await cache.totals()
    await store.run(
        """
        INSERT INTO {schema}.entries SELECT sha256(n::text::bytea), 1800000000 - n, NULL, NULL, 0,
            0, n, '{}', '[[],{}]', n::text::bytea, 'llm', 'value'
        FROM generate_series(1, 20000) AS n
        """
    )
    small = Narrowing(min_bytes=19_999)
    pages = [await cache.page(EVERYTHING, narrowed=small, limit=1)]
    while (cursor := pages[-1].cursor) is not None:
        pages.append(await cache.page(EVERYTHING, narrowed=small, cursor=cursor, limit=1))
    told = [[each.prompt for each in page.entries] for page in pages]
    assert told == [[], ["19999"], ["20000"]] or told == [[], ["19999"], ["20000"], []]


@pytest.mark.parametrize("said", [Filter(model="m"), EVERYTHING])
async def test_hits_narrow_down_by_their_index(
    store: PostgresStore, cache: PostgresCache, clock: FakeClock, said: Filter
) -> None:
    """Also where neither the filter nor the order leads to them, in pages without gaps."""
    await cache.totals()
    await store.run(
        """
        INSERT INTO {schema}.entries SELECT sha256(n::text::bytea), 1800000000 - n, NULL, NULL, 0,
            0, n, ARRAY['model=m'], '[[],{}]', n::text::bytea, 'llm', 'value'
        FROM generate_series(1, 30000) AS n
        """
    )
    many = (
        "INSERT INTO {schema}.hits SELECT sha256(n::text::bytea), n FROM generate_series(1, $1) n"
    )
    await store.run(many, 30_000)
    page = await cache.page(said, narrowed=Narrowing(min_hits=29_999), limit=1)
    assert [(each.prompt, each.hits) for each in page.entries] == [("29999", 29_999)]
    page = await cache.page(said, narrowed=Narrowing(min_hits=29_999), cursor=page.cursor, limit=1)
    assert ([each.prompt for each in page.entries], page.cursor) == (["30000"], None)


async def test_texts_are_not_searched_for_in_silence(cache: PostgresCache) -> None:
    """There is no index of them: whoever asks is told, and who has one."""
    with pytest.raises(Unsupported, match="memory and sqlite find them"):
        await cache.page(EVERYTHING, narrowed=Narrowing(text="needle"))


async def test_an_entry_that_is_no_longer_pinned_goes_like_others(
    store: PostgresStore, clock: FakeClock
) -> None:
    """When it is stored anew without its pin, it counts as used then."""
    cache = store.open(max_bytes=60_000, keep_house_every=0)
    entry = entry_of("prompt", clock, Generation("x" * 5000))
    await cache.put(replace(entry, about={"pinned": True}))
    await cache.put(entry)
    async with asyncio.timeout(10):
        while await cache.by_ids([entry.key.id]) != [None]:
            clock.advance(100)
            await cache.put(entry_of(str(clock()), clock, Generation("x" * 5000)))
    assert (await cache.totals()).entries > 1


async def test_what_is_stored_under_a_foreign_id_is_not_found_by_it(
    store: PostgresStore, cache: PostgresCache, clock: FakeClock
) -> None:
    """Strings that are none, or have another id: another program wrote them."""
    entries = [entry_of(prompt, clock) for prompt in "abc"]
    await cache.put_many(entries)
    await store.run("UPDATE {schema}.entries SET prompt = '\\xff' WHERE prompt = 'a'")
    await store.run("UPDATE {schema}.entries SET llm_string = 'x' WHERE prompt = 'b'")
    ids = [entry.key.id for entry in entries]
    assert await cache.by_ids(ids) == [None, None, entries[2]]


async def test_a_broken_row_is_not_found_by_its_id(
    store: PostgresStore, cache: PostgresCache, clock: FakeClock
) -> None:
    """It is counted and goes, as when it is asked for by its key."""
    entry = entry_of("prompt", clock)
    await cache.put(entry)
    await store.run("UPDATE {schema}.entries SET value = 'garbage'")
    assert await cache.by_ids([entry.key.id]) == [None]
    assert cache.broken == 1


async def first_layout(store: PostgresStore) -> Entry:
    """Make the schema as its first version was, with an entry in it."""
    session = await Database(store.url, store.schema).connect()
    await postgres_schema.set_up(session, postgres_schema.STEPS[:1])
    await session.close()
    entry = entry_of("prompt", store.clock, about={"model": "m"})
    # What is stored has not changed: it is stored through a schema of today.
    other = PostgresStore(store.url, store.schema + "x")
    await other.open().put(entry)
    await store.run("INSERT INTO {schema}.entries SELECT * FROM {schema}x.entries")
    await store.run("DROP SCHEMA {schema}x CASCADE")
    await other.aclose()
    return entry


async def test_a_store_of_the_first_layout_is_brought_up_to_date(store: PostgresStore) -> None:
    """By one of many who open it at once; its entries are listed, counted for and removed."""
    entry = await first_layout(store)
    caches = [store.open() for _ in range(6)]
    found = await asyncio.gather(*(cache.by_ids([entry.key.id]) for cache in caches))
    assert found == [[entry]] * 6
    await caches[0].add_hits({entry.key.id: 2})
    await caches[1].add_hits({entry.key.id: 1})
    assert await hits_of(caches[2]) == {"prompt": 3}
    assert await caches[3].delete(entry.key.id)
    assert await store.run("SELECT count(*) FROM {schema}.hits") == [(0,)]
    assert await caches[4].totals() == (0, 0)


async def test_who_may_not_bring_it_up_to_date_is_told_who_may(store: PostgresStore) -> None:
    """Once its owner has opened it, those who may only use it are served."""
    entry = await first_layout(store)
    role = store.schema
    await store.run(f"CREATE ROLE {role} LOGIN PASSWORD 'secret'")
    await store.run(f"GRANT USAGE ON SCHEMA {{schema}} TO {role}")
    await store.run(f"ALTER DEFAULT PRIVILEGES IN SCHEMA {{schema}} GRANT ALL ON TABLES TO {role}")
    await store.run(f"GRANT ALL ON ALL TABLES IN SCHEMA {{schema}} TO {role}")
    parts = urlsplit(store.url)
    host = parts.netloc.rpartition("@")[2]
    guest = store.open(parts._replace(netloc=f"{role}:secret@{host}").geturl())
    told = r"has layout 1 and must be brought to 2, which is refused \(permission denied for .*\)"
    with pytest.raises(CacheError, match=told):
        await guest.get(entry.key)
    assert await store.open().get(entry.key) == entry
    assert await guest.get(entry.key) == entry
    await guest.add_hits({entry.key.id: 1})
    assert await hits_of(guest) == {"prompt": 1}


CALLS: dict[str, Callable[[PostgresCache, str], Awaitable[Any]]] = {
    "by_ids": lambda cache, said: cache.by_ids([said]),
    "set_fact": lambda cache, said: cache.set_fact(said, said),
    "add_hits": lambda cache, said: cache.add_hits({said: 1}),
    "add_counts": lambda cache, said: cache.add_counts(said, {said: 1}),
    "counts": lambda cache, said: cache.counts(said),
    "forget_counts": lambda cache, said: cache.forget_counts(said),
}


@pytest.mark.parametrize("call", CALLS)
async def test_any_text_may_be_an_id_or_a_name(cache: PostgresCache, call: str) -> None:
    """One that is no id finds nothing, and none breaks anything."""
    for said in ("", "é", "\x00", "0" * 63, "A" * 64, "ff" * 5000):
        await CALLS[call](cache, said)
    assert await cache.totals() == (0, 0)
