"""The cache in a SQLite file: what it keeps, and what it lets go."""
# ruff: noqa: ASYNC240 - a test may wait for its own small file

from __future__ import annotations

import asyncio
import gc
import logging
import shutil
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import apsw
import pytest
import pytest_asyncio

from cache_backends import CacheError, Generation, Key, SQLiteCache, sqlite_crews, sqlite_rows
from cache_backends.shared import AFTER_ALL, EVERYTHING, Filter
from tests.cache_backends.conformance import entry_of
from tests.cache_backends.hostile import HOSTILE_VALUES
from tests.cache_backends.shared_conformance import SharedConformance
from tests.fakes.clock import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache.db"


@pytest_asyncio.fixture
async def cache(path: Path, clock: FakeClock) -> AsyncIterator[SQLiteCache]:
    opened = SQLiteCache(path, clock=clock)
    yield opened
    await opened.aclose()


class TestSQLiteCache(SharedConformance):
    @pytest_asyncio.fixture
    async def cache(self, path: Path, clock: FakeClock) -> AsyncIterator[SQLiteCache]:
        opened = SQLiteCache(database_path=str(path), clock=clock)
        yield opened
        await opened.aclose()

    @pytest_asyncio.fixture
    async def other(self, path: Path, clock: FakeClock) -> AsyncIterator[SQLiteCache]:
        opened = SQLiteCache(path, clock=clock)
        yield opened
        await opened.aclose()


async def test_entries_and_facts_are_there_after_reopening(path: Path, clock: FakeClock) -> None:
    """A restart forgets nothing."""
    first = SQLiteCache(path, clock=clock)
    entry = entry_of("prompt", clock, retained=60)
    await first.put(entry)
    await first.fact("name", "value")
    await first.aclose()
    second = SQLiteCache(path, clock=clock)
    assert await second.get(entry.key) == entry
    assert await second.fact("name", "other") == "value"
    assert (await second.totals()).entries == 1
    await second.aclose()


async def test_one_commit_serves_all_who_wait(
    cache: SQLiteCache, path: Path, clock: FakeClock
) -> None:
    """A hundred puts at once take a few transactions; each is visible when its put returns."""

    async def put(number: int) -> None:
        entry = entry_of(str(number), clock)
        await cache.put(entry)
        assert await cache.get(entry.key) == entry

    await cache.put(entry_of("first", clock))
    reader = apsw.Connection(str(path))
    before = reader.pragma("data_version")
    changes = set()
    tasks = [asyncio.create_task(put(number)) for number in range(100)]
    while not all(task.done() for task in tasks):
        changes.add(reader.pragma("data_version") - before)
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    reader.close()
    assert len(changes) < 30


async def test_a_put_goes_on_when_its_caller_is_cancelled(
    cache: SQLiteCache, clock: FakeClock
) -> None:
    """What was handed over is written, and those behind it are answered."""
    entry = entry_of("prompt", clock)
    task = asyncio.create_task(cache.put(entry))
    await asyncio.sleep(0)
    task.cancel()
    await cache.put(entry_of("next", clock))
    assert task.cancelled()
    assert await cache.get(entry.key) == entry


@pytest.mark.parametrize("name", HOSTILE_VALUES)
async def test_a_row_that_is_no_answer_is_a_miss_and_goes(
    cache: SQLiteCache, path: Path, clock: FakeClock, name: str
) -> None:
    """Garbage is counted, dropped with the next write, and harms no other entry."""
    entry, other = entry_of("prompt", clock), entry_of("other", clock)
    await cache.put_many([entry, other])
    tamper(path, "UPDATE entries SET value = ? WHERE prompt = 'prompt'", HOSTILE_VALUES[name])
    assert await cache.get_many([entry.key, other.key]) == [None, other]
    assert cache.lookup("prompt", "llm") is None
    assert cache.broken == 2
    await cache.put(entry_of("more", clock))
    assert (await cache.totals()).entries == 2


@pytest.mark.parametrize(
    "change",
    [
        "stored_at = 9e999",
        "expires_at = -9e999",
        "retained_until = 9e999",
        "prompt = CAST(x'ff' AS TEXT)",
        "prompt = prompt || char(0)",
        "llm_string = ''",
        "id = x'00'",
        "id = zeroblob(100000)",
        "used_at = -9e999, value = x''",
    ],
)
async def test_a_row_with_strange_columns_is_a_miss(
    cache: SQLiteCache, path: Path, clock: FakeClock, change: str
) -> None:
    """Also the columns are checked, and a new answer takes the place of the old."""
    entry = entry_of("prompt", clock)
    await cache.put(entry)
    tamper(path, f"UPDATE entries SET {change}")
    assert await cache.get(entry.key) is None
    await cache.put(entry)
    assert await cache.get(entry.key) == entry


async def test_the_first_broken_row_is_logged_the_others_counted(
    cache: SQLiteCache, path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """One line, without what the row held."""
    entries = [entry_of(prompt, clock) for prompt in "abc"]
    await cache.put_many(entries)
    tamper(path, "UPDATE entries SET value = x'5EC4E7'")
    for entry in entries:
        await cache.get(entry.key)
    (record,) = caplog.records
    assert record.name == "cache_backends.sqlite"
    assert str(path) in record.getMessage()
    assert cache.broken == 3


async def test_the_bound_holds_and_the_file_keeps_to_it(path: Path, clock: FakeClock) -> None:
    """What was not used for longest goes; the file grows little beyond the bound."""
    cache = SQLiteCache(path, max_bytes=2 * 2**20, clock=clock)
    for number in range(300):
        clock.advance(1)
        answers = [Generation("x" * (number * 997 % 60_000))]
        await cache.put(entry_of(str(number), clock, *answers))
        assert (await cache.totals()).bytes <= 2 * 2**20
    newest = Key.of("299", "llm")
    assert await cache.get(newest) is not None
    assert cache.evictions == 300 - (await cache.totals()).entries
    await cache.aclose()
    assert path.stat().st_size < 1.3 * 2 * 2**20


async def test_what_is_used_stays(path: Path, clock: FakeClock) -> None:
    """A hit counts as a use, though it writes nothing at once."""
    cache = SQLiteCache(path, max_bytes=50_000, clock=clock)
    loved = entry_of("loved", clock, Generation("x" * 8000))
    await cache.put(loved)
    for number in range(20):
        clock.advance(100)
        await cache.put(entry_of(str(number), clock, Generation("x" * 8000)))
        assert await cache.get(loved.key) == loved
    assert cache.evictions > 10
    await cache.aclose()


async def test_uses_are_kept_over_a_restart(path: Path, clock: FakeClock) -> None:
    """Also by a process that only ever read."""
    writer = SQLiteCache(path, clock=clock)
    old, new = entry_of("old", clock), entry_of("new", clock)
    await writer.put_many([old, new])
    await writer.aclose()
    clock.advance(1000)
    reader = SQLiteCache(path, clock=clock)
    await reader.get(old.key)
    await reader.aclose()
    (row,) = tamper(path, "SELECT prompt FROM entries ORDER BY used_at DESC LIMIT 1")
    assert row == ("old",)


async def test_the_first_eviction_is_a_warning(
    path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """One line that says that the bound is reached; the later ones are only counted."""
    cache = SQLiteCache(path, max_bytes=50_000, clock=clock)
    for number in range(40):
        await cache.put(entry_of(str(number), clock, Generation("x" * 5000)))
    await cache.aclose()
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("cache_backends.sqlite", logging.WARNING)
    assert "is full (50000 bytes)" in record.getMessage()


async def test_an_entry_too_large_pushes_nothing_out(path: Path, clock: FakeClock) -> None:
    """It is not kept, nor is the older answer that it was to replace."""
    cache = SQLiteCache(path, max_bytes=50_000, clock=clock)
    small, old = entry_of("small", clock), entry_of("large", clock)
    await cache.put_many([small, old])
    await cache.put(entry_of("large", clock, Generation("x" * 60_000)))
    assert await cache.get_many([small.key, old.key]) == [small, None]
    assert (cache.evictions, cache.refused) == (0, 1)
    await cache.aclose()


async def test_without_a_bound_half_of_the_disk_is_left(
    path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is free is measured again, and what others take is made room for."""
    free = 10**9
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": free}))
    monkeypatch.setattr(sqlite_crews, "MEASURE_DISK_EVERY_S", 0)
    cache = SQLiteCache(path, clock=clock)
    for number in range(20):
        await cache.put(entry_of(str(number), clock, Generation("x" * 5000)))
    held = await cache.totals()
    assert cache.evictions == 0
    free = 0
    await cache.put(entry_of("more", clock))
    assert (await cache.totals()).bytes <= (held.bytes + 2048) // 2
    await cache.aclose()


async def test_expired_rows_are_swept(cache: SQLiteCache, path: Path, clock: FakeClock) -> None:
    """With the next write, what is no longer retained leaves the file, and its bytes too."""
    await cache.put_many([entry_of(prompt, clock, retained=10) for prompt in "abc"])
    await cache.put(entry_of("stays", clock))
    clock.advance(10)
    await cache.put(entry_of("new", clock))
    assert tamper(path, "SELECT prompt FROM entries ORDER BY rowid") == [("stays",), ("new",)]
    assert (await cache.totals()).entries == 2


async def test_deleted_answers_are_overwritten(path: Path, clock: FakeClock) -> None:
    """After a delete the text is nowhere in the file."""
    cache = SQLiteCache(path, clock=clock)
    entry = entry_of("prompt", clock, Generation("XYZZY" * 2000))
    await cache.put_many([entry, entry_of("other", clock)])
    await cache.delete(entry.key.id)
    await cache.aclose()
    assert b"XYZZY" not in path.read_bytes()


@pytest.mark.parametrize("filter", [EVERYTHING, Filter(provider="p")])
async def test_purged_answers_are_in_no_file(path: Path, clock: FakeClock, filter: Filter) -> None:
    """Nor in the log that SQLite writes first; at once, not only when the file is closed."""
    cache = SQLiteCache(path, clock=clock)
    entry = entry_of("prompt", clock, Generation("XYZZY" * 2000))
    await cache.put(replace(entry, about={"provider": "p"}))
    assert await cache.remove(filter, before=AFTER_ALL) == 1
    left = b"".join(each.read_bytes() for each in path.parent.glob(f"{path.name}*"))
    assert b"XYZZY" not in left
    await cache.aclose()


@pytest.mark.parametrize("sync", [True, False])
async def test_a_clear_gives_the_disk_back(
    path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, sync: bool
) -> None:
    """Also when it takes more than one transaction, and from sync code."""
    monkeypatch.setattr(sqlite_rows, "BATCH_ROWS", 30)
    cache = SQLiteCache(path, clock=clock)
    await cache.put_many([entry_of(str(n), clock, Generation("x" * 9000)) for n in range(100)])
    if sync:
        cache.clear()
    else:
        await cache.aclear()
    assert await cache.totals() == (0, 0)
    await cache.aclose()
    assert path.stat().st_size < 100_000


async def test_a_closed_cache_says_so(path: Path) -> None:
    """Neither hangs nor opens the file again; closing twice is fine."""
    cache = SQLiteCache(path)
    await cache.aclose()
    assert not path.exists()
    with pytest.raises(CacheError, match="is closed"):
        await cache.get(Key.of("prompt", "llm"))
    with pytest.raises(CacheError, match="is closed"):
        cache.update("prompt", "llm", [Generation("a")])
    await cache.aclose()
    cache.close()


async def test_a_dropped_cache_leaves_no_threads(path: Path) -> None:
    """Who forgets to close loses nothing and leaks nothing."""
    before = set(threading.enumerate())
    cache = SQLiteCache(path)
    await cache.aupdate("prompt", "llm", [Generation("a")])
    await cache.alookup("prompt", "llm")
    ours = set(threading.enumerate()) - before
    assert len(ours) == 2
    del cache
    gc.collect()
    for thread in ours:
        await asyncio.to_thread(thread.join, 10)
        assert not thread.is_alive()


def test_any_number_of_event_loops_may_share_it(path: Path) -> None:
    """A cache belongs to no loop: one after the other, and from threads at once."""
    cache = SQLiteCache(path)

    async def work(prompt: str) -> None:
        await cache.aupdate(prompt, "llm", [Generation(prompt)])
        assert await cache.alookup(prompt, "llm") == [Generation(prompt)]

    threads = [threading.Thread(target=lambda p=p: asyncio.run(work(p))) for p in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [cache.lookup(prompt, "llm") for prompt in "abcd"] == [[Generation(p)] for p in "abcd"]
    cache.close()


@pytest.mark.parametrize("name", ["", ":memory:"])
def test_what_is_no_file_is_refused(name: str) -> None:
    """The message names the cache for that."""
    with pytest.raises(ValueError, match="MemoryCache"):
        SQLiteCache(name)


def test_a_file_without_room_is_refused(path: Path) -> None:
    """A cache that can hold nothing is a mistake in the settings."""
    with pytest.raises(ValueError, match="max_bytes must be greater than 0"):
        SQLiteCache(path, max_bytes=0)


def tamper(path: Path, statement: str, *values: object) -> list[tuple[object, ...]]:
    """Do to the file what another program could."""
    connection = apsw.Connection(str(path))
    connection.set_busy_timeout(5000)
    found = connection.execute(statement, values).fetchall()  # type: ignore[arg-type]
    connection.close()
    return found
