"""The Postgres cache among processes: its making, its layout, its log, its leases."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import pytest_asyncio

from cache_backends import CacheError, postgres_schema
from cache_backends.postgres_session import Database
from tests.cache_backends.child import answer
from tests.cache_backends.conformance import entry_of
from tests.fakes.postgres_store import PostgresStore

ROOT = Path(__file__).parents[2]


@pytest_asyncio.fixture
async def store(postgres_url: str, fresh_name: str) -> AsyncIterator[PostgresStore]:
    made = PostgresStore(postgres_url, fresh_name)
    yield made
    await made.aclose()


async def children(store: PostgresStore, mode: str, *names: str) -> list[list[str]]:
    """Have each of these processes do its part, all at once; give what they said."""

    async def run(name: str) -> list[str]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.cache_backends.postgres_child"),
            *(mode, store.url, store.schema, name),
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
        )
        said, _ = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode == 0
        return said.decode().splitlines()

    return await asyncio.gather(*map(run, names))


async def layout(store: PostgresStore, steps: tuple[str, ...]) -> None:
    """Bring the schema to the layout of another program."""
    session = await Database(store.url, store.schema).connect()
    try:
        await postgres_schema.set_up(session, steps)
    finally:
        await session.close()


async def test_processes_share_one_database(store: PostgresStore) -> None:
    """Three at once, from its making on: all see all, one fact and one name for all."""
    said = await children(store, "share", "a", "b", "c")
    assert len({line for (line,) in said}) == 1
    cache = store.open()
    for turn in range(100):
        for prompt in (f"a {turn}", f"b {turn}", f"c {turn}", f"all {turn}"):
            assert await cache.alookup(prompt, "llm") == answer(prompt)
    assert (await cache.totals()).entries == 400
    counted = await store.run("SELECT count(*), sum(bytes)::bigint FROM {schema}.entries")
    assert counted == [await cache.totals()]


async def test_many_instances_make_the_tables_at_once(store: PostgresStore) -> None:
    """One does, the others wait; nobody sees an error."""
    caches = [store.open() for _ in range(8)]
    logs = await asyncio.gather(*(cache.purges(0) for cache in caches))
    assert len({log.store for log in logs}) == 1


async def test_processes_announce_in_order(store: PostgresStore) -> None:
    """No number twice, each row after the one that it names; no reader ever skips one."""
    cache, seen = store.open(), [0]
    writing = asyncio.create_task(children(store, "announce", "a", "b"))
    while not writing.done():
        seen += [purge.number for purge in (await cache.purges(seen[-1])).purges]
    seen += [purge.number for purge in (await cache.purges(seen[-1])).purges]
    told = [int(number) for (line,) in await writing for number in line.split()]
    assert seen[1:] == sorted(told)
    assert len(set(told)) == 200
    log = (await cache.purges(0)).purges
    assert all(later.previous == earlier.number for earlier, later in pairwise(log))


async def test_a_lease_has_one_holder_among_processes(store: PostgresStore) -> None:
    """Of three who ask for each of two hundred, one gets it."""
    got = await children(store, "claim", "a", "b", "c")
    assert sorted(int(turn) for lines in got for turn in lines) == list(range(200))


async def test_an_older_layout_is_brought_up_to_date(store: PostgresStore) -> None:
    """Step by step, once, whoever comes first; what is stored stays."""
    cache = store.open()
    entry = entry_of("prompt", store.clock)
    await cache.put(entry)
    step = "ALTER TABLE {schema}.entries ADD COLUMN more integer NOT NULL DEFAULT 7"
    newer = (*postgres_schema.STEPS, step)
    await asyncio.gather(*(layout(store, newer) for _ in range(4)))
    assert await store.run("SELECT version FROM {schema}.store") == [(len(newer),)]
    assert await store.run("SELECT more FROM {schema}.entries") == [(7,)]
    # An instance that was there before goes on.
    assert await cache.get(entry.key) == entry
    await cache.put(entry)


async def test_a_step_that_fails_changes_nothing(store: PostgresStore) -> None:
    """All steps are taken, or none."""
    await layout(store, postgres_schema.STEPS)
    half = "ALTER TABLE {schema}.entries ADD COLUMN more integer; SELECT no_such_function()"
    with pytest.raises(Exception, match="no_such_function"):
        await layout(store, (*postgres_schema.STEPS, half))
    assert await store.open().totals() == (0, 0)
    assert await store.run("SELECT version FROM {schema}.store") == [(len(postgres_schema.STEPS),)]


async def test_a_newer_layout_is_refused(store: PostgresStore) -> None:
    """The message says what to do; nothing is changed."""
    await layout(store, (*postgres_schema.STEPS, "SELECT 1"))
    cache = store.open()
    message = f"schema {store.schema} has layout 3, this program knows 2: use the program that made"
    with pytest.raises(CacheError, match=message):
        await cache.get(entry_of("prompt", store.clock).key)
    assert await store.run("SELECT version FROM {schema}.store") == [(3,)]


async def test_tables_of_others_are_not_touched(store: PostgresStore) -> None:
    """A schema that is in use for something else is refused."""
    await store.run("CREATE SCHEMA {schema}")
    await store.run("CREATE TABLE {schema}.entries AS SELECT 1 AS theirs")
    with pytest.raises(CacheError, match='relation "entries" already exists'):
        await store.open().totals()
    assert await store.run("SELECT * FROM {schema}.entries") == [(1,)]


async def test_a_schema_that_was_dropped_is_made_again(store: PostgresStore) -> None:
    """Under another name: whoever trusted the old log must know that it is lost."""
    cache = store.open(max_connections=1)
    before = await cache.purges(0)
    await store.run("DROP SCHEMA {schema} CASCADE")
    with pytest.raises(CacheError, match="does not exist"):
        await cache.totals()
    assert await cache.totals() == (0, 0)
    assert (await cache.purges(0)).store != before.store


async def test_a_user_who_may_not_make_a_schema_can_use_one(store: PostgresStore) -> None:
    """One that was made for them is enough."""
    role = store.schema
    await store.run(f"CREATE ROLE {role} LOGIN PASSWORD 'secret'")
    await store.run(f"CREATE SCHEMA {{schema}} AUTHORIZATION {role}")
    parts = urlsplit(store.url)
    host = parts.netloc.rpartition("@")[2]
    cache = store.open(parts._replace(netloc=f"{role}:secret@{host}").geturl())
    await cache.put(entry_of("prompt", store.clock))
    assert (await cache.totals()).entries == 1
