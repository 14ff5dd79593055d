"""The Postgres cache when things go wrong: errors, never wrong answers, and back by itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from functools import partial
from random import Random
from typing import Any

import pytest
import pytest_asyncio

from cache_backends import CacheError, Generation, Key, PostgresCache
from cache_backends.postgres_session import Database
from cache_backends.shared import EVERYTHING
from tests.cache_backends.conformance import entry_of
from tests.fakes.fault_proxy import FaultProxy
from tests.fakes.postgres_server import PostgresServer
from tests.fakes.postgres_store import PostgresStore

StartServer = Callable[..., PostgresServer]


@pytest_asyncio.fixture
async def store(postgres_url: str, fresh_name: str) -> AsyncIterator[PostgresStore]:
    made = PostgresStore(postgres_url, fresh_name)
    yield made
    await made.aclose()


@pytest.fixture
def faults(store: PostgresStore) -> Iterator[FaultProxy]:
    with FaultProxy(store.url) as proxy:
        yield proxy


async def server_of_one_s_own(start: StartServer, **options: Any) -> tuple[Any, PostgresStore]:
    server = await asyncio.to_thread(start, **options)
    return server, PostgresStore(server.url, "llm_cache")


async def back(ask: Callable[[], Awaitable[Any]]) -> Any:
    """What it gives once it gives something again; within five seconds."""
    async with asyncio.timeout(5):
        while True:
            try:
                return await ask()
            except CacheError:
                await asyncio.sleep(0.05)


CALLS: dict[str, Callable[[PostgresCache], Awaitable[Any]]] = {
    "get": lambda cache: cache.get(Key.of("prompt", "llm")),
    "get_many": lambda cache: cache.get_many([Key.of("prompt", "llm"), Key.of("b", "llm")]),
    "put": lambda cache: cache.aupdate("prompt", "llm", [Generation("a")]),
    "delete": lambda cache: cache.delete(Key.of("prompt", "llm").id),
    "fact": lambda cache: cache.fact("name", "value"),
    "totals": lambda cache: cache.totals(),
    "purges": lambda cache: cache.purges(0),
    "announce": lambda cache: cache.announce(EVERYTHING),
    "forget": lambda cache: cache.forget(1),
    "claim": lambda cache: cache.claim("name", "me", 1),
    "release": lambda cache: cache.release("name", "me"),
    "clear": lambda cache: cache.aclear(),
    "page": lambda cache: cache.page(EVERYTHING),
    "by_ids": lambda cache: cache.by_ids(["00" * 32]),
    "set_fact": lambda cache: cache.set_fact("name", "value"),
    "add_hits": lambda cache: cache.add_hits({"00" * 32: 1}),
    "add_counts": lambda cache: cache.add_counts("group", {"name": 1}),
    "counts": lambda cache: cache.counts("group"),
    "forget_counts": lambda cache: cache.forget_counts("group"),
}
# Nobody waits for these with a request in hand: they have more time.
PATIENT = {"clear", "page", "by_ids", "add_hits", "add_counts", "counts", "forget_counts"}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("fault", ["refuse", "reset", "garbage"])
async def test_every_method_says_that_the_store_is_out_of_reach(
    store: PostgresStore, faults: FaultProxy, call: str, fault: str
) -> None:
    """With `CacheError`, which names the store and neither login nor data; and then it is back."""
    cache = store.open(faults.url)
    await cache.aupdate("prompt", "llm", [Generation("a")])
    getattr(faults, fault)()
    for _ in range(3):
        with pytest.raises(CacheError, match=r"^postgresql://127\.0\.0\.1:\d+/postgres: ") as told:
            await CALLS[call](cache)
        assert "not-secret" not in str(told.value)
        assert "prompt" not in str(told.value)
    faults.pass_on()
    await back(lambda: CALLS[call](cache))


@pytest.mark.parametrize("call", [name for name in CALLS if name not in PATIENT])
async def test_a_server_that_hangs_costs_no_more_than_the_timeout(
    store: PostgresStore, faults: FaultProxy, call: str
) -> None:
    """On the connections that are open, and where a new one is to be made."""
    await store.open().aupdate("prompt", "llm", [Generation("a")])
    cache = store.open(faults.url, timeout=0.25)
    await back(cache.totals)
    faults.hang()
    for _ in range(3):
        began = time.monotonic()
        with pytest.raises(CacheError, match="no answer in time"):
            await CALLS[call](cache)
        assert time.monotonic() - began < 2  # on a busy machine
    faults.pass_on()
    await back(lambda: CALLS[call](cache))


async def test_what_is_lost_for_ever_is_replaced(store: PostgresStore, faults: FaultProxy) -> None:
    """Ten connections that died without a word cost one timeout, not ten."""
    cache = store.open(faults.url, timeout=1.0)
    entries = [entry_of(str(number), store.clock) for number in range(30)]
    await store.open().put_many(entries)
    await back(cache.totals)
    for _ in range(5):  # until all ten are open, and have been of use
        await asyncio.gather(*(back(partial(cache.get, entry.key)) for entry in entries))
    assert faults.open >= 10
    faults.lose()
    with pytest.raises(CacheError, match="no answer in time"):
        await cache.get(entries[0].key)
    assert await cache.get(entries[1].key) == entries[1]


async def test_a_connection_that_dies_before_its_first_use_leaves_its_place(
    store: PostgresStore, faults: FaultProxy
) -> None:
    """Without a word, while it looks at the tables: the only place is not taken for ever."""
    await store.open().totals()
    cache = store.open(faults.url, max_connections=1, timeout=0.25)
    session = await Database(store.url, store.schema).connect()
    async with session.transaction():
        await session.fetch_once("LOCK TABLE {schema}.store IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(CacheError, match="no answer in time"):
            await cache.totals()
        faults.lose()
    await session.close()
    await back(cache.totals)


async def test_a_reply_that_is_cut_anywhere_is_never_an_answer(
    store: PostgresStore, faults: FaultProxy
) -> None:
    """Reset after any number of bytes: the entry as it is, or an error."""
    entry = entry_of("prompt", store.clock, Generation("x" * 500))
    await store.open().put(entry)
    cache = store.open(faults.url)
    for after in range(0, 800, 31):
        faults.reset(after)
        with suppress(CacheError):
            assert await cache.get(entry.key) == entry
    faults.pass_on()
    assert await back(lambda: cache.get(entry.key)) == entry


async def test_slow_replies_are_waited_for(store: PostgresStore, faults: FaultProxy) -> None:
    """In pieces and late, but within the timeout."""
    entry = entry_of("prompt", store.clock, Generation("x" * 5000))
    await store.open().put(entry)
    cache = store.open(faults.url)
    await cache.totals()
    faults.slow(0.001, piece=100)
    assert await cache.get(entry.key) == entry


@pytest.mark.parametrize("patience", [10.0, 0.05])
async def test_a_storm_of_cancellations_gives_nobody_the_reply_of_another(
    store: PostgresStore,
    faults: FaultProxy,
    patience: float,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Of 2,000 lookups on a slow line half are cancelled at any time: the others are right."""
    entries = [entry_of(str(number), store.clock) for number in range(50)]
    await store.open().put_many(entries)
    cache = store.open(faults.url, timeout=patience, max_connections=5)
    await back(cache.totals)
    faults.slow(0.001)
    random = Random(7)
    answered = 0

    async def ask(number: int) -> None:
        nonlocal answered
        entry = entries[number % 50]
        task = asyncio.create_task(cache.get(entry.key))
        if random.random() < 0.5:
            await asyncio.sleep(random.random() * 0.02)
            task.cancel()
        try:
            assert await task == entry
            answered += 1
        except (asyncio.CancelledError, CacheError):
            pass

    for first in range(0, 2000, 40):
        await asyncio.gather(*(ask(number) for number in range(first, first + 40)))
    faults.pass_on()
    assert answered >= (500 if patience > 1 else 0)
    for entry in entries:
        assert await back(partial(cache.get, entry.key)) == entry
    await cache.aclose()
    assert caplog.records == []  # nothing that failed unheard


async def test_a_put_goes_on_when_its_caller_is_cancelled(store: PostgresStore) -> None:
    """What was handed over is written, and those behind it are answered."""
    cache = store.open(max_connections=1)
    await cache.totals()
    entry = entry_of("prompt", store.clock)
    task = asyncio.create_task(cache.put(entry))
    await asyncio.sleep(0)
    task.cancel()
    await cache.put(entry_of("next", store.clock))
    assert task.cancelled()
    assert await cache.get(entry.key) == entry


async def test_one_connection_serves_any_number(store: PostgresStore) -> None:
    """They wait for each other; who waits too long is told so."""
    cache = store.open(max_connections=1)
    await asyncio.gather(*(cache.aupdate(str(n), "llm", [Generation("a")]) for n in range(100)))
    assert (await cache.totals()).entries == 100
    impatient = store.open(max_connections=1, timeout=0.000001)
    with pytest.raises(CacheError, match="no answer in time"):
        await impatient.totals()


async def test_a_locked_row_holds_up_its_writer_only(store: PostgresStore) -> None:
    """And no longer than the timeout; the statement is taken back at the server, too."""
    cache = store.open(timeout=0.5)
    entry, other = entry_of("prompt", store.clock), entry_of("other", store.clock)
    await back(lambda: cache.put(entry))
    session = await Database(store.url, store.schema).connect()
    async with session.transaction():
        await session.fetch_once("SELECT 1 FROM {schema}.entries FOR UPDATE")
        with pytest.raises(CacheError, match="no answer in time"):
            await cache.put(entry)
        await cache.put(other)
        assert await cache.get_many([entry.key, other.key]) == [entry, other]
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation::regclass::text "
        async with asyncio.timeout(5):
            while await store.run(waiting + "LIKE '{schema}%'") != [(0,)]:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    await session.close()
    await cache.put(entry)


async def test_sessions_that_are_terminated_are_replaced(store: PostgresStore) -> None:
    """By an operator, or a server that was told to."""
    cache = store.open()
    entries = [entry_of(str(number), store.clock) for number in range(20)]
    await asyncio.gather(*(cache.put(entry) for entry in entries))
    await store.run(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE query LIKE '%{schema}.%' AND pid <> pg_backend_pid()"
    )
    for entry in entries:
        assert await back(partial(cache.get, entry.key)) == entry


@pytest.mark.parametrize("how", ["restart", "kill"])
async def test_a_restart_is_lived_through(postgres_server: StartServer, how: str) -> None:
    """Errors at once while the server is down; back by itself, with what was stored."""
    server, store = await server_of_one_s_own(postgres_server)
    cache = store.open()
    entry = entry_of("prompt", store.clock)
    await cache.put(entry)
    number = await cache.announce(EVERYTHING)  # what was announced is on the disk, and all before
    await asyncio.to_thread(server.kill if how == "kill" else server.stop)
    began = time.monotonic()
    for call in CALLS.values():
        with pytest.raises(CacheError):
            await call(cache)
    assert time.monotonic() - began < 5
    await asyncio.to_thread(server.start)
    assert await back(lambda: cache.get(entry.key)) == entry
    assert (await cache.purges(0)).head == number
    assert (await cache.totals()).entries == 1
    await store.aclose()


async def test_where_there_are_no_more_connections_those_that_are_open_serve(
    postgres_server: StartServer,
) -> None:
    """A server with few of them: who has one goes on, who has none is told."""
    _, store = await server_of_one_s_own(
        postgres_server, max_connections=4, superuser_reserved_connections=0
    )
    cache = store.open(max_connections=10)
    entries = [entry_of(str(number), store.clock) for number in range(100)]
    await asyncio.gather(*(cache.put(entry) for entry in entries))
    found = await asyncio.gather(*(cache.get(entry.key) for entry in entries))
    assert found == entries
    late = store.open(max_connections=1)
    with pytest.raises(CacheError, match="too many clients"):
        await late.totals()
    await cache.aclose()
    assert (await back(late.totals)).entries == 100
    await store.aclose()


async def test_in_read_only_mode_reading_goes_on(postgres_server: StartServer) -> None:
    """As on a standby, or a server that its operator has closed for writing."""
    _, store = await server_of_one_s_own(postgres_server)
    cache = store.open()
    entry = entry_of("prompt", store.clock)
    await cache.put(entry)
    await cache.fact("name", "value")
    await store.run("ALTER DATABASE postgres SET default_transaction_read_only = on")
    closed = store.open(max_bytes=10**6)
    for name in ("put", "delete", "announce", "claim", "clear", "set_fact", "add_hits"):
        with pytest.raises(CacheError, match="read-only transaction"):
            await CALLS[name](closed)
        assert await closed.get(entry.key) == entry
    assert await closed.fact("name", "other") == "value"
    assert (await closed.totals()).entries == 1
    assert (await closed.purges(0)).purges == ()
    assert len((await closed.page(EVERYTHING)).entries) == 1
    await store.aclose()


async def test_a_wrong_password_is_told_without_it(store: PostgresStore) -> None:
    """The server's own words, and the login of nobody."""
    cache = store.open(store.url.replace("not-secret", "s3cr3t"))
    with pytest.raises(CacheError, match="password authentication failed") as told:
        await cache.totals()
    assert "s3cr3t" not in str(told.value)
    assert "s3cr3t" not in repr(cache)


async def test_prepared_statements_that_get_lost_are_done_without(
    store: PostgresStore, caplog: pytest.LogCaptureFixture
) -> None:
    """As behind a pooler that changes the server below: one error, then it works, and is told."""
    database = Database(store.url, store.schema)
    await store.open().totals()
    statement = "SELECT version FROM {schema}.store"
    first, second = await database.connect(), await database.connect()
    assert [tuple(row) for row in await first.fetch(statement)] == [(2,)]
    await first.run("DEALLOCATE ALL")
    with pytest.raises(Exception, match="does not exist"):
        await first.fetch(statement)
    for _ in range(2):
        assert [tuple(row) for row in await second.fetch(statement)] == [(2,)]
        await second.run("DEALLOCATE ALL")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    await first.close()
    await second.close()
