"""The cache in Postgres: what it keeps, and what it lets go."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from functools import partial
from random import Random

import pytest
import pytest_asyncio

from cache_backends import CacheError, Filter, Generation, Key, PostgresCache, postgres
from cache_backends.shared import EVERYTHING, WIDE, Narrowing
from tests.cache_backends.conformance import entry_of
from tests.cache_backends.hostile import HOSTILE_VALUES
from tests.cache_backends.listed_conformance import listing
from tests.cache_backends.shared_conformance import SharedConformance
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


class TestPostgresCache(SharedConformance):
    finds_text = False

    @pytest.fixture
    def clock(self, store: PostgresStore) -> FakeClock:
        return store.clock

    @pytest.fixture
    def cache(self, store: PostgresStore) -> PostgresCache:
        return store.open()

    @pytest.fixture
    def other(self, store: PostgresStore) -> PostgresCache:
        return store.open()


async def until(told: Callable[[], Awaitable[object]], expected: object) -> None:
    """Wait for what is done in the background."""
    async with asyncio.timeout(10):
        while await told() != expected:  # noqa: ASYNC110 - it happens in the database
            await asyncio.sleep(0.01)


async def test_everything_is_there_after_reopening(store: PostgresStore, clock: FakeClock) -> None:
    """A restart forgets nothing: entries, counts, facts, log, leases."""
    first = store.open()
    entry = replace(entry_of("prompt", clock, retained=60), seen=7)
    await first.put(entry)
    await first.fact("name", "value")
    number = await first.announce(EVERYTHING)
    await first.claim("lease", "me", 60)
    await first.aclose()
    second = store.open()
    assert await second.get(entry.key) == entry
    assert await second.fact("name", "other") == "value"
    assert (await second.totals()).entries == 1
    assert (await second.purges(0)).head == number
    assert not await second.claim("lease", "you", 60)


async def entries_of(cache: PostgresCache) -> int:
    return (await cache.totals()).entries


@pytest.mark.parametrize("name", HOSTILE_VALUES)
async def test_a_row_that_is_no_answer_is_a_miss_and_goes(
    store: PostgresStore, cache: PostgresCache, clock: FakeClock, name: str
) -> None:
    """Garbage is counted and deleted, and harms no other entry."""
    entry, other = entry_of("prompt", clock), entry_of("other", clock)
    await cache.put_many([entry, other])
    change = "UPDATE {schema}.entries SET value = $1 WHERE prompt = 'prompt' RETURNING 1"
    assert await store.run(change, HOSTILE_VALUES[name]) == [(1,)]
    assert await cache.get_many([entry.key, other.key]) == [None, other]
    assert cache.broken == 1
    await until(partial(entries_of, cache), 1)
    assert await cache.get(other.key) == other


@pytest.mark.parametrize(
    "change",
    [
        "stored_at = 'infinity'",
        "stored_at = 'nan'",
        "expires_at = '-infinity'",
        "expires_at = 'nan'",
        "retained_until = 'infinity'",
        "retained_until = 'nan'",
        "prompt = '\\xff'",
        "prompt = prompt || '\\x00'",
        "llm_string = ''",
        "id = decode(repeat('00', 32), 'hex')",
        "used_at = 'nan', value = ''",
        "marks = '{}', told = 'null', value = 'null'",
        "seen = -9223372036854775808, bytes = -1, value = '[]'",
    ],
)
async def test_a_row_with_strange_columns_is_a_miss(
    store: PostgresStore, cache: PostgresCache, clock: FakeClock, change: str
) -> None:
    """Also the columns are checked, and a new answer takes the place of the old."""
    entry = entry_of("prompt", clock)
    await cache.put(entry)
    await store.run(f"UPDATE {{schema}}.entries SET {change}")
    assert await cache.get(entry.key) is None
    await cache.put(entry)
    assert await cache.get(entry.key) == entry


async def test_what_was_stored_meanwhile_is_not_deleted_as_broken(
    store: PostgresStore, cache: PostgresCache, clock: FakeClock
) -> None:
    """A broken row goes as it was found; a good one in its place stays."""
    entry = entry_of("prompt", clock)
    await cache.put(entry)
    await store.run("UPDATE {schema}.entries SET value = 'garbage'")
    found = asyncio.create_task(cache.get(entry.key))
    assert await found is None
    await cache.put(entry)
    await asyncio.sleep(0.05)
    assert await cache.get(entry.key) == entry


@pytest.mark.parametrize("told", ["", "null", "[]", "[[1], {}]", "[[], []]", "[[], {}, 1]", "{"])
async def test_a_listing_bears_rows_of_others(
    store: PostgresStore, cache: PostgresCache, clock: FakeClock, told: str
) -> None:
    """What cannot be told of an entry is left out; one without a time is passed over."""
    await cache.put_many([entry_of(prompt, clock) for prompt in "ab"])
    await store.run("UPDATE {schema}.entries SET told = $1", told.encode())
    await store.run("UPDATE {schema}.entries SET stored_at = 'nan' WHERE prompt = 'b'")
    (summary,) = await listing(cache, limit=1)
    assert (summary.prompt, summary.tags, summary.about) == ("a", (), {})


@pytest.mark.parametrize("said", ["", "null", "[]", '{"colour": "blue"}', '{"tag": 1}', "\\"])
async def test_a_purge_that_cannot_be_read_covers_everything(
    store: PostgresStore, cache: PostgresCache, said: str
) -> None:
    """What was to go may have been anything; nothing that was to go is served."""
    number = await cache.announce(Filter(tag="a"))
    await store.run("UPDATE {schema}.purges SET filter = $1", said.encode())
    assert [each[:3] for each in (await cache.purges(0)).purges] == [(number, 0, EVERYTHING)]


async def test_the_first_broken_row_is_logged_the_others_counted(
    store: PostgresStore, cache: PostgresCache, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """One line, without what the row held and without the password."""
    entries = [entry_of(prompt, clock) for prompt in "abc"]
    await cache.put_many(entries)
    await store.run("UPDATE {schema}.entries SET value = 'SECRET'")
    assert await cache.get_many([entry.key for entry in entries]) == [None, None, None]
    (record,) = caplog.records
    assert record.name == "cache_backends.postgres"
    assert "an entry cannot be read" in record.getMessage()
    assert "SECRET" not in record.getMessage()
    assert "secret" not in record.getMessage()
    assert cache.broken == 3


async def test_what_has_ended_is_swept(store: PostgresStore, clock: FakeClock) -> None:
    """By whoever stores something, in batches, and only that; the counts follow."""
    cache = store.open(keep_house_every=0)
    await cache.put_many([entry_of(str(number), clock, retained=10) for number in range(2100)])
    await cache.put_many([entry_of("stays", clock, retained=11), entry_of("for ever", clock)])
    clock.advance(10)
    new = entry_of("new", clock)

    async def left() -> int:
        await cache.put(new)
        return await entries_of(cache)

    await until(left, 3)
    assert {each.prompt for each in await listing(cache)} == {"stays", "for ever", "new"}
    assert (await cache.totals()).bytes == (await count(store))[1]


async def test_not_every_write_sweeps(store: PostgresStore, clock: FakeClock) -> None:
    """What has ended may lie for a while; nobody gets it."""
    cache = store.open()
    await cache.put(entry_of("first", clock))
    entry = entry_of("ended", clock, retained=10)
    await cache.put(entry)
    clock.advance(10)
    await cache.put(entry_of("new", clock))
    await asyncio.sleep(0.05)
    assert (await cache.totals()).entries == 3
    assert await cache.get(entry.key) is None


async def test_the_bound_holds(store: PostgresStore, clock: FakeClock) -> None:
    """What was not used for longest goes; what is used stays."""
    cache = store.open(max_bytes=200_000)
    loved = entry_of("loved", clock, Generation("x" * 8000))
    await cache.put(loved)
    for number in range(60):
        clock.advance(100)
        await cache.put(entry_of(str(number), clock, Generation("x" * 8000)))
        assert await cache.get(loved.key) == loved
        async with asyncio.timeout(10):  # room is made in the background
            while (await cache.totals()).bytes >= 250_000:
                assert await cache.get(loved.key) == loved
    assert await cache.get(loved.key) == loved
    assert await cache.get(Key.of("59", "llm")) is not None
    assert await cache.get(Key.of("0", "llm")) is None
    assert cache.evictions >= 61 - 250_000 // 8000


async def test_the_first_eviction_is_a_warning(
    store: PostgresStore, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """One line that says that the bound is reached; the later ones are only counted."""
    cache = store.open(max_bytes=50_000, keep_house_every=0)
    while cache.evictions < 3:
        await cache.put(entry_of(str(clock()), clock, Generation("x" * 5000)))
        clock.advance(1)
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("cache_backends.postgres", logging.WARNING)
    assert "is full (50000 bytes)" in record.getMessage()


async def test_an_entry_too_large_pushes_nothing_out(
    store: PostgresStore, clock: FakeClock
) -> None:
    """It is not kept, nor is the older answer that it was to replace."""
    cache = store.open(max_bytes=50_000)
    small, old = entry_of("small", clock), entry_of("large", clock)
    await cache.put_many([small, old])
    await cache.put(entry_of("large", clock, Generation("x" * 60_000)))
    assert await cache.get_many([small.key, old.key]) == [small, None]
    assert (cache.evictions, cache.refused) == (0, 1)


async def test_totals_follow_everything(
    store: PostgresStore, cache: PostgresCache, clock: FakeClock
) -> None:
    """Stores at once, the same ones too, overwrites, deletes, removals, and what others do."""
    other = store.open()
    many = [entry_of(str(number), clock, Generation("x" * number)) for number in range(40)]
    orders = (many, many[::-1])  # in which nobody may wait for nobody
    await asyncio.gather(*(each.put_many(o) for each in (cache, other) * 4 for o in orders))
    await asyncio.gather(*(other.put(entry_of(str(number), clock)) for number in range(20)))
    await cache.delete(many[0].key.id)
    await cache.remove(Filter(ids=(many[1].key.id, many[2].key.id)), before=1)
    await store.run("DELETE FROM {schema}.entries WHERE prompt = '3'")
    assert await cache.totals() == await count(store)
    assert (await cache.totals()).entries == 36


async def count(store: PostgresStore) -> tuple[int, int]:
    """The slow way."""
    (counted,) = await store.run("SELECT count(*), sum(bytes)::bigint FROM {schema}.entries")
    return counted


async def test_of_several_entries_with_one_key_the_last_is_stored(
    cache: PostgresCache, clock: FakeClock
) -> None:
    """A batch may hold a question twice."""
    entries = [entry_of("prompt", clock, Generation(text)) for text in "abc"]
    await cache.put_many(entries)
    assert await cache.get(entries[0].key) == entries[2]
    assert (await cache.totals()).entries == 1


# Of nothing that an index could compress.
LONG = Random(1).randbytes(5000).hex()


@pytest.mark.parametrize("name", [LONG, "\x00", "a,b", "é" * 150, "", "{}", "#"])
async def test_any_fact_can_be_chosen_by(cache: PostgresCache, clock: FakeClock, name: str) -> None:
    """Long ones, which no index takes, and those that Postgres' text does not know."""
    entry = entry_of("prompt", clock, about={"model": name}, tags=[name, name, name + "!"])
    await cache.put_many([entry, entry_of("other", clock, about={"model": name + "!"})])
    for said in (Filter(model=name), Filter(tag=name), Filter(model=name, tag=name + "!")):
        assert [each.id for each in (await cache.page(said)).entries] == [entry.key.id]


async def test_names_of_facts_and_leases_may_be_long(cache: PostgresCache) -> None:
    """Longer than an index takes, and still told apart."""
    for end in "ab":
        assert await cache.fact(LONG + end, end) == end
        assert await cache.claim(LONG + end, "\x00é", 60)


PLANS = {
    "entries_by_time": (EVERYTHING, Narrowing(max_bytes=5, expired=True)),
    "entries_by_marks": (Filter(model="rare"), WIDE),
    "entries_pkey": (Filter(ids=("00" * 32, "ff" * 32)), WIDE),
    "hits_by_number": (EVERYTHING, Narrowing(min_hits=900)),
}


@pytest.mark.parametrize("index", PLANS)
async def test_a_listing_of_many_goes_by_an_index(
    store: PostgresStore, cache: PostgresCache, clock: FakeClock, index: str
) -> None:
    """Of 20,000 entries only a few are read, with a cursor and without."""
    await fill(store, cache)
    first = await cache.page(EVERYTHING, limit=5)
    for cursor in (None, first.cursor):
        asked = postgres.listing.Listing.of(*PLANS[index], cursor, 10, clock())
        statement, values = asked.walk(10_000) if index == "entries_by_time" else asked.pick()
        plan = await store.run(f"EXPLAIN {statement}", *values)
        text = "\n".join(line for (line,) in plan)
        assert index in text
        assert "Seq Scan" not in text


async def test_removing_and_sweeping_go_by_an_index(
    store: PostgresStore, cache: PostgresCache, clock: FakeClock
) -> None:
    """As does finding what was not used for longest, and an entry by its key."""
    await fill(store, cache)
    rows = postgres.rows
    asked = {
        "entries_by_end": (rows.DELETE_ENDED, [clock(), 1000]),
        "entries_by_use": (rows.DELETE_UNUSED, [10_000, 1000]),
        "entries_pkey": (rows.FIND, [b"0" * 32, b"a", b"b"]),
    }
    for index, (statement, values) in asked.items():
        plan = await store.run(f"EXPLAIN {statement}", *values)
        text = "\n".join(line for (line,) in plan)
        assert index in text
        assert "Seq Scan" not in text


async def fill(store: PostgresStore, cache: PostgresCache) -> None:
    """20,000 entries, one in a thousand with a rare model, half of them with an end."""
    await cache.totals()
    await store.run(
        """
        INSERT INTO {schema}.entries SELECT sha256(n::text::bytea), 1800000000 - n, NULL,
            CASE WHEN n % 2 = 0 THEN 1800000000 + n END, 1800000000 - n, 0, 1000,
            ARRAY['provider=p', CASE WHEN n % 1000 = 0 THEN 'model=rare' ELSE 'model=m' END],
            '[[],{}]', n::text::bytea, 'llm', 'value'
        FROM generate_series(1, 20000) AS n
        """
    )
    await store.run(
        "INSERT INTO {schema}.hits SELECT sha256(n::text::bytea), n FROM generate_series(1, 999) n"
    )
    await store.run("ANALYZE {schema}.entries")
    await store.run("ANALYZE {schema}.hits")


async def test_any_number_of_event_loops_may_share_it(store: PostgresStore) -> None:
    """A cache belongs to no loop: from threads at once, one after the other, and without any."""
    cache = store.open()

    async def work(prompt: str) -> None:
        await cache.aupdate(prompt, "llm", [Generation(prompt)])
        assert await cache.alookup(prompt, "llm") == [Generation(prompt)]

    threads = [threading.Thread(target=lambda p=p: asyncio.run(work(p))) for p in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    found = [cache.lookup(prompt, "llm") for prompt in "abcd"]
    assert found == [[Generation(prompt)] for prompt in "abcd"]
    assert await cache.alookup("a", "llm") == [Generation("a")]


async def sessions(store: PostgresStore) -> int:
    """How many have touched the schema last, and are still open."""
    ((number,),) = await store.run(
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%{schema}.%' AND pid <> "
        "pg_backend_pid()"
    )
    return int(number)


async def test_connections_are_closed_with_their_loop(store: PostgresStore) -> None:
    """`asyncio.run` leaves none behind, though nobody closed the cache."""
    cache = store.open()

    def run() -> None:
        for prompt in "abc":
            asyncio.run(cache.aupdate(prompt, "llm", [Generation(prompt)]))

    await asyncio.to_thread(run)
    await until(partial(sessions, store), 0)


async def test_a_dropped_cache_leaves_nothing_behind(store: PostgresStore, fresh_name: str) -> None:
    """Who forgets to close keeps no thread and no connection."""
    before = set(threading.enumerate())
    cache = PostgresCache(store.url, schema=fresh_name, timeout=10)
    cache.update("prompt", "llm", [Generation("a")])
    await cache.alookup("prompt", "llm")
    await asyncio.sleep(0.1)  # its housekeeping
    ours = set(threading.enumerate()) - before
    del cache
    gc.collect()
    for thread in ours:
        await asyncio.to_thread(thread.join, 10)
        assert not thread.is_alive()
    await until(partial(sessions, store), 0)


async def test_a_closed_cache_says_so(cache: PostgresCache) -> None:
    """Neither hangs nor connects again; closing twice is fine."""
    await cache.aupdate("prompt", "llm", [Generation("a")])
    await cache.aclose()
    with pytest.raises(CacheError, match="is closed"):
        await cache.get(Key.of("prompt", "llm"))
    with pytest.raises(CacheError, match="is closed"):
        await asyncio.to_thread(cache.update, "prompt", "llm", [Generation("a")])
    await cache.aclose()
    await asyncio.to_thread(cache.close)


async def test_closing_waits_for_what_is_being_written(
    store: PostgresStore, clock: FakeClock
) -> None:
    """What was handed over is stored."""
    cache = store.open()
    await cache.totals()
    await cache.totals()
    task = asyncio.create_task(cache.put(entry_of("prompt", clock)))
    await asyncio.sleep(0)
    await cache.aclose()
    await task
    assert (await store.open().totals()).entries == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "mysql://localhost/db"}, "url must be postgresql://"),
        ({"schema": "Robert'); DROP TABLE"}, "schema must be a name"),
        ({"schema": "x" * 64}, "schema must be a name"),
        ({"max_connections": 0}, "max_connections must be greater than 0"),
        ({"timeout": 0}, "timeout must be greater than 0"),
        ({"max_bytes": 0}, "max_bytes must be greater than 0"),
    ],
)
def test_mistakes_in_the_settings_are_told(options: dict[str, object], message: str) -> None:
    """When the cache is made, not with the first request."""
    with pytest.raises(ValueError, match=message):
        PostgresCache(**({"url": "postgresql://localhost/db"} | options))  # type: ignore[arg-type]
